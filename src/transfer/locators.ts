/** From what users name entries by to what commands and reads take: checked names under a directory id. */
import type { EntryRef, UploadRequest } from "../drive/drive-api.ts";
import { ROOT_ENTRY_ID, SYSTEM_ROOT_ENTRY_ID, type Locator } from "../drive/entry.ts";
import { DriveError } from "../drive/errors.ts";
import { parseNewFilePath, parseNewPath, parsePath } from "../drive/path.ts";
import type { PutIntent } from "../metadata/commands.ts";

/** The locator of an absolute path. @throws DriveError PATH_INVALID, NAME_TOO_LONG, PATH_TOO_DEEP */
export function pathLocator(path: string): Locator {
  return { baseId: ROOT_ENTRY_ID, path: parsePath(path) };
}

/** As pathLocator(), for what is to be made there. */
export function newPathLocator(path: string): Locator {
  return { baseId: ROOT_ENTRY_ID, path: parseNewPath(path) };
}

/** As newPathLocator(), for a file: no slash at the end. */
export function newFileLocator(path: string): Locator {
  return { baseId: ROOT_ENTRY_ID, path: parseNewFilePath(path) };
}

/** A file to be stored: for a user, or with `ofSystem` below the system's root. */
export interface StoreRequest extends UploadRequest {
  readonly ofSystem?: boolean | undefined;
}

/** Where the file of a request is to be. @throws DriveError as newFileLocator() */
export function locatorOfRequest({ path, ofSystem }: StoreRequest): Locator {
  return ofSystem === true ? systemLocator(parseNewFilePath(path)) : newFileLocator(path);
}

/** The locator of something that the system keeps for itself. */
export function systemLocator(path: readonly string[]): Locator {
  return { baseId: SYSTEM_ROOT_ENTRY_ID, path };
}

/** What a one-shot upload asks for. @throws DriveError as newFileLocator() */
export function putIntent(request: StoreRequest): PutIntent {
  const { createParents, onConflict, attributes } = request;
  return { at: locatorOfRequest(request), createParents, onConflict, attributes };
}

/** The locator of an entry by id or path. @throws DriveError as pathLocator(), and ARGUMENT_INVALID for an id that is none */
export function locatorOf(ref: EntryRef): Locator {
  if ("path" in ref) return pathLocator(ref.path);
  // The system's root has the greatest safe integer for its id: it is no entry for users.
  if (!Number.isSafeInteger(ref.entryId) || ref.entryId <= 0 || ref.entryId === SYSTEM_ROOT_ENTRY_ID) {
    throw new DriveError("ARGUMENT_INVALID", `An entry id is a positive whole number, not ${ref.entryId}.`, {
      entry_id: String(ref.entryId),
    });
  }
  return { baseId: ref.entryId, path: [] };
}
