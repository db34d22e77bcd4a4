/**
 * Method definitions for grpc-js from protobuf descriptors: what server and client adapters share.
 *
 * Messages that carry file bytes are encoded by frame-encoder.ts; all others by the protobuf library. Decoding needs no help:
 * byte fields of a decoded message are views of the received buffer.
 */
import {
  fromBinary,
  toBinary,
  type DescMessage,
  type DescMethod,
  type DescService,
  type Message,
} from "@bufbuild/protobuf";
import type { MethodDefinition } from "@grpc/grpc-js";
import {
  InstallSnapshotRequestSchema,
  StreamRequestSchema,
} from "../../gen/netdisk/peer/v1/raft_service_pb.ts";
import {
  PutSmallBatchRequestSchema,
  ReadResponseSchema,
  WriteChunksRequestSchema,
} from "../../gen/netdisk/peer/v1/replica_service_pb.ts";
import {
  DownloadResponseSchema,
  PutFileRequestSchema,
  UploadRequestSchema,
} from "../../gen/netdisk/v1/chunk_service_pb.ts";
import { ReadDownloadResponseSchema } from "../../gen/netdisk/v1/download_service_pb.ts";
import { createFrameEncoder, type FrameEncoder } from "./frame-encoder.ts";

/** Types of messages that carry file bytes. */
export const BULK_MESSAGES: readonly DescMessage[] = [
  UploadRequestSchema,
  PutFileRequestSchema,
  DownloadResponseSchema,
  ReadDownloadResponseSchema,
  WriteChunksRequestSchema,
  PutSmallBatchRequestSchema,
  ReadResponseSchema,
  InstallSnapshotRequestSchema,
  StreamRequestSchema,
];

const FRAME_ENCODERS: ReadonlyMap<string, FrameEncoder> = new Map(
  BULK_MESSAGES.map((schema) => [schema.typeName, createFrameEncoder(schema)]),
);

/** Whether messages of this type carry file bytes. */
export function isBulk(schema: DescMessage): boolean {
  return FRAME_ENCODERS.has(schema.typeName);
}

function serializer(schema: DescMessage): (message: Message) => Buffer {
  const encoder = FRAME_ENCODERS.get(schema.typeName);
  if (encoder !== undefined) return encoder;
  return (message) => {
    const bytes = toBinary(schema, message);
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  };
}

function deserializer(schema: DescMessage): (bytes: Buffer) => Message {
  return (bytes) => fromBinary(schema, bytes);
}

/** Full name of a method as it is on the wire, such as "/netdisk.v1.ChunkService/Upload". */
export function methodPath(method: DescMethod): string {
  return `/${method.parent.typeName}/${method.name}`;
}

/** The grpc-js definition of one method. */
export function methodDefinition(method: DescMethod): MethodDefinition<Message, Message> {
  const streaming = method.methodKind;
  return {
    path: methodPath(method),
    originalName: method.localName,
    requestStream: streaming === "client_streaming" || streaming === "bidi_streaming",
    responseStream: streaming === "server_streaming" || streaming === "bidi_streaming",
    requestSerialize: serializer(method.input),
    requestDeserialize: deserializer(method.input),
    responseSerialize: serializer(method.output),
    responseDeserialize: deserializer(method.output),
  };
}

/** The grpc-js definition of a service: its methods by their local names. */
export function serviceDefinition(service: DescService): Record<string, MethodDefinition<Message, Message>> {
  return Object.fromEntries(service.methods.map((method) => [method.localName, methodDefinition(method)]));
}
