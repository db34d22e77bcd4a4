/**
 * MetadataService of netdisk.v1 over the drive: decodes, calls, encodes. Keeps no state and decides nothing itself.
 */
import { MetadataService } from "../../gen/netdisk/v1/metadata_service_pb.ts";
import type { DriveApi } from "../drive/drive-api.ts";
import { PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX } from "../drive/limits.ts";
import {
  decodeAttributes,
  decodeOnConflict,
  decodeRef,
  encodeChange,
  encodeEntry,
  encodePathEntry,
  readOptions,
  refuseField,
  toNumber,
  writeOptions,
} from "./codec.ts";
import { CHANGES_PER_MESSAGE_MAX } from "./limits.ts";
import { service, type ServedService } from "./server-adapter.ts";

/** Gives the drive, or throws NODE_STARTING or NODE_STOPPING while there is none. */
export type DriveSource = () => DriveApi;

function pageSize(value: number): number {
  if (value > PAGE_SIZE_MAX)
    return refuseField("page_size", `is ${value}; at most ${PAGE_SIZE_MAX} is allowed`);
  return value === 0 ? PAGE_SIZE_DEFAULT : value;
}

/** The service over `drive`. */
export function metadataService(drive: DriveSource): ServedService {
  return service(MetadataService, {
    async stat(request, call) {
      const found = await drive().stat(decodeRef(request.ref), readOptions(request, call.signal));
      return { pathEntry: encodePathEntry(found) };
    },
    async list(request, call) {
      const page = {
        countMax: pageSize(request.pageSize),
        ...(request.pageToken !== "" && { cursor: request.pageToken }),
      };
      const listed = await drive().list(decodeRef(request.ref), page, readOptions(request, call.signal));
      return {
        entries: listed.entries.map(encodeEntry),
        path: listed.path,
        nextPageToken: listed.nextCursor ?? "",
      };
    },
    async createDirectory(request, call) {
      const settings = {
        createParents: request.createParents,
        existOk: request.existOk,
        attributes: decodeAttributes(request.attributes),
      };
      const options = writeOptions(request, call.signal);
      return { pathEntry: encodePathEntry(await drive().createDirectory(request.path, settings, options)) };
    },
    async move(request, call) {
      const conflict = decodeOnConflict(request.onConflict);
      const options = writeOptions(request, call.signal);
      const moved = await drive().move(decodeRef(request.ref), request.toPath, conflict, options);
      return { pathEntry: encodePathEntry(moved) };
    },
    async copy(request, call) {
      const conflict = decodeOnConflict(request.onConflict);
      const options = writeOptions(request, call.signal);
      const copied = await drive().copy(decodeRef(request.ref), request.toPath, conflict, options);
      return { pathEntry: encodePathEntry(copied) };
    },
    async delete(request, call) {
      const settings = { recursive: request.recursive };
      await drive().remove(decodeRef(request.ref), settings, writeOptions(request, call.signal));
      return {};
    },
    async update(request, call) {
      const attributes = decodeAttributes(request.attributes);
      const options = writeOptions(request, call.signal);
      return {
        pathEntry: encodePathEntry(await drive().update(decodeRef(request.ref), attributes, options)),
      };
    },
    async *watchChanges(request, call) {
      const afterIndex = toNumber(request.afterIndex, "after_index");
      for await (const batch of drive().watchChanges(afterIndex, call.signal)) {
        for (let at = 0; at < batch.length; at += CHANGES_PER_MESSAGE_MAX) {
          yield { changes: batch.slice(at, at + CHANGES_PER_MESSAGE_MAX).map(encodeChange) };
        }
      }
    },
    async getDurability(request, call) {
      const durability = await drive().durability(decodeRef(request.ref), readOptions(request, call.signal));
      return { verifiedCount: durability.verifiedCount, nodeIds: [...durability.nodeIds] };
    },
  });
}
