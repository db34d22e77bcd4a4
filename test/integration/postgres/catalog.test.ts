/** The contract of catalogs against PostgreSQL; after each test the tables equal the tree and the manifests row by row. */
import { PostgresCatalog } from "../../../src/catalog/postgres-catalog.ts";
import { describeCatalog } from "../../contract/catalog.contract.ts";
import { expectProjectionEquals, projectorOf } from "../../support/projection.ts";
import { createDatabase } from "../../support/services/postgres-kind.ts";
import { sharedService } from "../../support/services/services.ts";

describeCatalog("PostgresCatalog", async (drive) => {
  const { url } = await sharedService("postgres");
  const database = await createDatabase(url);
  const projector = projectorOf(drive, database.url);
  return {
    catalog: new PostgresCatalog(projector.client),
    caughtUp: () => projector.caughtUp(),
    dispose: async () => {
      await projector.caughtUp();
      await expectProjectionEquals(drive, database.url);
      await projector.stop();
      await database.drop();
    },
  };
});
