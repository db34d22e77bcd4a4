/**
 * MetadataService and ProgressService of netdisk.v1 over the drive, for any transport: decodes, calls, encodes.
 *
 * A method takes a message and the call's signal; that is all that gRPC and Connect servers have in common. Keeps no state and
 * decides nothing itself.
 */
import type { DescMessage, DescService, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import type { MetadataService } from "../../gen/netdisk/v1/metadata_service_pb.ts";
import type { ProgressService } from "../../gen/netdisk/v1/progress_service_pb.ts";
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
  toBigint,
  toNumber,
  writeOptions,
} from "./codec.ts";
import { encodeProgress } from "./progress-codec.ts";

/** Changes in one message of WatchChanges, as its comment promises. */
export const CHANGES_PER_MESSAGE_MAX = 1000;

/** Characters of a progress id, as the comment of Watch promises. */
export const PROGRESS_ID_LENGTH_MAX = 64;

/** What a handler learns of its call. */
export interface CallContext {
  /** Aborts when the caller goes away or the server stops. */
  readonly signal: AbortSignal;
}

/** Gives the drive, or throws NODE_STARTING or NODE_STOPPING while there is none. */
export type DriveSource = () => DriveApi;

/** Handlers of the methods of a service, by method: a promise for unary ones, a stream for server streaming. */
export type Handlers<S extends DescService> = {
  readonly [K in keyof S["method"]]: S["method"][K] extends {
    readonly input: infer I extends DescMessage;
    readonly output: infer O extends DescMessage;
    readonly methodKind: infer M;
  }
    ? (
        request: MessageShape<I>,
        call: CallContext,
      ) => M extends "unary" ? Promise<MessageInitShape<O>> : AsyncIterable<MessageInitShape<O>>
    : never;
};

function pageSize(value: number): number {
  if (value > PAGE_SIZE_MAX) refuseField("page_size", `is ${value}; at most ${PAGE_SIZE_MAX} is allowed`);
  return value === 0 ? PAGE_SIZE_DEFAULT : value;
}

/** MetadataService over `drive`. */
export function metadataHandlers(drive: DriveSource): Handlers<typeof MetadataService> {
  return {
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
      const updated = await drive().update(decodeRef(request.ref), attributes, options);
      return { pathEntry: encodePathEntry(updated) };
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
      const { verifiedCount, nodeIds, oldestCheckAgeMs } = durability;
      return {
        verifiedCount,
        nodeIds: [...nodeIds],
        ...(oldestCheckAgeMs !== undefined && { oldestCheckAgeMs: toBigint(Math.round(oldestCheckAgeMs)) }),
      };
    },
  };
}

/** ProgressService over `drive`. */
export function progressHandlers(drive: DriveSource): Handlers<typeof ProgressService> {
  return {
    async *watch({ id }, call) {
      if (id === "" || id.length > PROGRESS_ID_LENGTH_MAX) {
        refuseField("id", `has ${id.length} characters; 1 to ${PROGRESS_ID_LENGTH_MAX} are allowed`);
      }
      for await (const progress of drive().watchProgress(id, call.signal)) {
        yield { progress: encodeProgress(progress) };
      }
    },
  };
}
