/** A bare grpc-js client of MetadataService for the load generator: the same shape as the one that drives etcd. */
import * as grpc from "@grpc/grpc-js";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  CreateDirectoryRequestSchema,
  StatRequestSchema,
  StatResponseSchema,
} from "../gen/netdisk/v1/metadata_service_pb.ts";

/** Calls one node. */
export class NetdiskClient {
  readonly #client: grpc.Client;

  constructor(address: string) {
    this.#client = new grpc.Client(address, grpc.credentials.createInsecure());
  }

  #unary(path: string, request: Uint8Array): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.#client.makeUnaryRequest(
        path,
        (value: Buffer) => value,
        (value: Buffer) => value,
        Buffer.from(request.buffer, request.byteOffset, request.byteLength),
        new grpc.Metadata(),
        { deadline: Date.now() + 10_000 },
        (error, value) => (error === null ? resolve(value ?? Buffer.alloc(0)) : reject(error)),
      );
    });
  }

  /** Makes a folder: one linearizable metadata write. */
  async createDirectory(path: string, existOk = false): Promise<void> {
    const request = create(CreateDirectoryRequestSchema, { path, createParents: true, existOk });
    await this.#unary(
      "/netdisk.v1.MetadataService/CreateDirectory",
      toBinary(CreateDirectoryRequestSchema, request),
    );
  }

  /** Looks a path up: one linearizable metadata read. */
  async stat(path: string): Promise<void> {
    const request = create(StatRequestSchema, { ref: { ref: { case: "path", value: path } } });
    fromBinary(
      StatResponseSchema,
      await this.#unary("/netdisk.v1.MetadataService/Stat", toBinary(StatRequestSchema, request)),
    );
  }

  close(): void {
    this.#client.close();
  }
}
