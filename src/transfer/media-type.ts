/**
 * The media type of a file whose client states none: that of its name's ending.
 *
 * Chosen by the node that a request comes to and sent as an attribute like a stated one, so that every replica of the tree applies the
 * same value whichever table of endings its version has. A repeat of a request must ask for the same again: it finds the type
 * that the first attempt gave, and keeps it.
 */
import mime from "mime";
import { hasReason } from "../drive/errors.ts";
import { resolve } from "../metadata/view.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import { locatorOfRequest, type StoreRequest } from "./locators.ts";

/** The media type, without parameters, that the ending of `name` stands for; undefined when there is none or it is not known. */
export function mediaTypeOfName(name: string): string | undefined {
  // With a folder in front a name without a dot has no ending, instead of being one.
  return mime.getType(`/${name}`) ?? undefined;
}

/**
 * A request with a media type: the stated one, else that of the file which it replaces, else that of the name. What the
 * system keeps for itself gets none. A file in a part of a copied folder that is not made yet counts as not there.
 * @param reader the tree as this node has it
 * @throws DriveError PATH_INVALID, NAME_TOO_LONG, PATH_TOO_DEEP
 */
export function withMediaType<T extends StoreRequest>(request: T, reader: OrderedReader): T {
  if (request.ofSystem === true || request.attributes.mediaType !== undefined) return request;
  const name = locatorOfRequest(request).path.at(-1) ?? "";
  const kept = request.onConflict === "rename" ? "" : mediaTypeThere(request, reader);
  const mediaType = kept === "" ? mediaTypeOfName(name) : kept;
  return { ...request, attributes: { ...request.attributes, mediaType } };
}

function mediaTypeThere(request: StoreRequest, reader: OrderedReader): string {
  try {
    const found = resolve(reader, locatorOfRequest(request));
    return found.kind === "entry" ? found.entry.mediaType : "";
  } catch (error) {
    // What is wrong with the path is for the tree to say.
    if (hasReason(error, "PATH_NOT_FOUND", "NOT_A_DIRECTORY", "PATH_TOO_DEEP")) return "";
    throw error;
  }
}
