/**
 * Where Redis is, as people write it: "redis:6379", "redis://:secret@host:6379/1", "rediss://host" for TLS, several nodes of a
 * cluster separated by commas, or "redis+cluster://host" when one node is named and the others are asked of it.
 */
import { findAddress, type Address } from "./address.ts";

/** Nodes that one URL may name. */
export const REDIS_NODE_COUNT_MAX = 32;

/** Highest number of a database. */
export const REDIS_DATABASE_MAX = 999;

const PORT_DEFAULT = 6379;

/** A Redis server, or nodes of a cluster of them. */
export interface RedisTarget {
  readonly nodes: readonly Address[];
  readonly isCluster: boolean;
  readonly isTls: boolean;
  /** Undefined: the default user. */
  readonly username: string | undefined;
  readonly password: string | undefined;
  /** 0 to REDIS_DATABASE_MAX; a cluster has 0 alone. */
  readonly database: number;
}

const URL_FORM = /^(?:(rediss?)(\+cluster)?:\/\/)?(?:([^@/]*)@)?([^/@?#]+)(?:\/(\d{0,3}))?$/;

/** What `text` says, or undefined when it is no address of Redis. */
export function parseRedisUrl(text: string): RedisTarget | undefined {
  const match = URL_FORM.exec(text);
  if (match === null) return undefined;
  const [, scheme, clusterMark, login, hosts = "", database = ""] = match;
  // Without a scheme it is a list of host:port and nothing else.
  if (scheme === undefined && (login !== undefined || database !== "" || text.endsWith("/")))
    return undefined;
  const parts = hosts.split(",").map((part) => part.trim());
  const nodes = parts.flatMap((part) => findNode(part, scheme !== undefined) ?? []);
  const names = new Set(nodes.map(({ host, port }) => `${host} ${port}`));
  if (nodes.length !== parts.length || names.size !== nodes.length) return undefined;
  if (nodes.length > REDIS_NODE_COUNT_MAX) return undefined;
  const isCluster = clusterMark !== undefined || nodes.length > 1;
  if (isCluster && Number(database) !== 0) return undefined;
  const known = findLogin(login);
  if (known === undefined) return undefined;
  return { nodes, isCluster, isTls: scheme === "rediss", ...known, database: Number(database) };
}

function findNode(text: string, mayOmitPort: boolean): Address | undefined {
  return findAddress(text) ?? (mayOmitPort ? findAddress(`${text}:${PORT_DEFAULT}`) : undefined);
}

function findLogin(
  text: string | undefined,
): { readonly username: string | undefined; readonly password: string | undefined } | undefined {
  if (text === undefined) return { username: undefined, password: undefined };
  const at = text.indexOf(":");
  try {
    const username = decodeURIComponent(at < 0 ? text : text.slice(0, at));
    const password = at < 0 ? "" : decodeURIComponent(text.slice(at + 1));
    return {
      username: username === "" ? undefined : username,
      password: password === "" ? undefined : password,
    };
  } catch (error) {
    // A "%" that begins no escape.
    if (error instanceof URIError) return undefined;
    throw error;
  }
}
