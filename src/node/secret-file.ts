/** Secrets in files, as container platforms hand them over. */
import { readFile } from "node:fs/promises";
import { DriveError } from "../drive/errors.ts";

/** The text of a file without the line break at its end. @throws DriveError CONFIGURATION_INVALID when it cannot be read or is empty */
export async function readSecret(path: string): Promise<string> {
  const refuse = (what: string, cause?: unknown): never => {
    throw new DriveError("CONFIGURATION_INVALID", `The secret in ${path} ${what}.`, { path }, cause);
  };
  const text = await readFile(path, "utf8").catch((error: unknown) => refuse("cannot be read", error));
  const secret = text.replace(/\r?\n$/, "");
  return secret === "" ? refuse("is empty") : secret;
}
