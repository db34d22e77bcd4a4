/**
 * Larger HTTP/2 receive windows on a grpc-js server.
 *
 * grpc-js has an option for the client's windows (grpc-node.flow_control_window) but none for the server's, which stay at
 * 64 KiB per stream and per connection: at 50 ms a push of 1.3 MB/s. The settings live in private fields, so each step is
 * guarded: where a field is not what is expected the server keeps the default windows and only is slower.
 */
import type { Http2Server, ServerHttp2Session } from "node:http2";
import type { Server } from "@grpc/grpc-js";

function objectAt(owner: object, field: string): object | undefined {
  const value: unknown = Reflect.get(owner, field);
  return typeof value === "object" && value !== null ? value : undefined;
}

/** Before bindAsync(): makes the window of each stream `windowBytes`; returns whether it could. */
export function enlargeStreamWindows(server: Server, windowBytes: number): boolean {
  const common = objectAt(server, "commonServerOptions");
  if (common === undefined) return false;
  const settings = { ...objectAt(common, "settings"), initialWindowSize: windowBytes };
  return Reflect.set(common, "settings", settings);
}

/** After bindAsync(): makes the window of each connection to come `windowBytes`; returns whether it could. */
export function enlargeConnectionWindows(server: Server, windowBytes: number): boolean {
  const http2Servers = objectAt(server, "http2Servers");
  if (!(http2Servers instanceof Map) || http2Servers.size === 0) return false;
  for (const http2Server of http2Servers.keys() as Iterable<Http2Server>) {
    http2Server.on("session", (session: ServerHttp2Session) => session.setLocalWindowSize(windowBytes));
  }
  return true;
}
