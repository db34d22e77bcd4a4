/** The document at /openapi.json says what the server does. */
import { expect } from "chai";
import { openApiPath } from "../../../src/gateway/openapi.ts";
import { useGateway } from "./use-gateway.ts";

interface Document {
  readonly openapi: string;
  readonly paths: Record<string, Record<string, Operation>>;
  readonly components: { readonly schemas: Record<string, unknown> };
}

interface Operation {
  readonly operationId: string;
  readonly parameters: readonly { readonly name: string; readonly in: string; readonly required: boolean }[];
  readonly responses: Record<string, unknown>;
}

describe("/openapi.json", () => {
  const at = useGateway();
  const load = async () => (await (await at.fetch("/openapi.json")).json()) as Document;

  it("describes every route that is served, and no other", async () => {
    const document = await load();
    const served = at.gateway.routes.flatMap((route) =>
      [route.method, ...(route.head ? ["HEAD"] : [])].map((method) => `${method} ${openApiPath(route.path)}`),
    );
    const described = Object.entries(document.paths).flatMap(([path, item]) =>
      Object.keys(item).map((method) => `${method.toUpperCase()} ${path}`),
    );
    expect(document.openapi).to.equal("3.1.0");
    expect(described.toSorted()).to.deep.equal(served.toSorted());
    expect(served.length).to.be.greaterThan(25);
  });

  it("describes only what the server answers: each operation is there, not 404 ROUTE_NOT_FOUND or 405", async () => {
    for (const [path, item] of Object.entries((await load()).paths)) {
      for (const method of Object.keys(item)) {
        const response = await at.fetch(path.replaceAll(/\{\w+\}/g, "999"), { method: method.toUpperCase() });
        const text = await response.text();
        expect(text, `${method} ${path}`).not.to.match(/ROUTE_NOT_FOUND|METHOD_NOT_ALLOWED/);
        expect(response.status, `${method} ${path}`).not.to.equal(405);
      }
    }
  });

  it("has unique operation ids, every path parameter, and an error answer for each operation", async () => {
    const document = await load();
    const operations = Object.entries(document.paths).flatMap(([path, item]) =>
      Object.values(item).map((operation) => ({ path, operation })),
    );
    const ids = operations.map(({ operation }) => operation.operationId);
    expect(new Set(ids).size).to.equal(ids.length);
    for (const { path, operation } of operations) {
      const inPath = operation.parameters
        .filter((each) => each.in === "path" && each.required)
        .map((each) => each.name);
      expect(inPath).to.deep.equal([...path.matchAll(/\{(\w+)\}/g)].map((match) => match[1]));
      expect(Object.keys(operation.responses)).to.include("default");
    }
  });

  it("gives the size of an upload as a whole number from 0, which is what is taken", async () => {
    const text = JSON.stringify(await load());
    const sizes = [...text.matchAll(/"size":(\{[^{}]*absent when not known[^{}]*\})/g)];

    expect(sizes.length).to.be.greaterThan(0);
    for (const [, schema = ""] of sizes)
      expect(JSON.parse(schema)).to.include({ type: "integer", minimum: 0 });
  });

  it("resolves each of its references", async () => {
    const document = await load();
    const text = JSON.stringify(document);
    const names = [...text.matchAll(/"\$ref":"([^"]+)"/g)].map((match) => match[1] ?? "");
    expect(names.length).to.be.greaterThan(10);
    for (const name of names) {
      expect(name).to.match(/^#\/components\/schemas\//);
      expect(document.components.schemas).to.have.property(name.replace("#/components/schemas/", ""));
    }
  });
});
