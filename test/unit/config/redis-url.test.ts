/** Where Redis is, as people write it. */
import { expect } from "chai";
import { parseRedisUrl, REDIS_DATABASE_MAX, REDIS_NODE_COUNT_MAX } from "../../../src/config/redis-url.ts";

const node = (host: string, port = 6379): { host: string; port: number } => ({ host, port });
const target = {
  nodes: [node("redis")],
  isCluster: false,
  isTls: false,
  username: undefined,
  password: undefined,
  database: 0,
};

describe("parseRedisUrl()", () => {
  const cases = [
    ["redis:6379", target],
    ["redis://redis", target],
    ["redis://redis:6379/", target],
    ["redis://redis/7", { ...target, database: 7 }],
    [`redis://redis/${REDIS_DATABASE_MAX}`, { ...target, database: REDIS_DATABASE_MAX }],
    ["rediss://redis", { ...target, isTls: true }],
    ["redis://:p%40ss:w@redis", { ...target, password: "p@ss:w" }],
    ["redis://drive@redis", { ...target, username: "drive" }],
    [
      "rediss://drive:secret@redis:1",
      { ...target, isTls: true, username: "drive", password: "secret", nodes: [node("redis", 1)] },
    ],
    ["[::1]:6380", { ...target, nodes: [node("::1", 6380)] }],
    ["a:1,b:2, c:3", { ...target, isCluster: true, nodes: [node("a", 1), node("b", 2), node("c", 3)] }],
    ["rediss://a,b:2", { ...target, isTls: true, isCluster: true, nodes: [node("a"), node("b", 2)] }],
    ["redis+cluster://redis", { ...target, isCluster: true }],
    ["rediss+cluster://:x@redis/0", { ...target, isCluster: true, isTls: true, password: "x" }],
  ] as const;
  for (const [text, expected] of cases) {
    it(`reads ${text}`, () => {
      expect(parseRedisUrl(text)).to.deep.equal(expected);
    });
  }

  for (const [text, why] of [
    ["redis", "a host alone, without a scheme"],
    ["http://redis", "another scheme"],
    ["redis://", "no host"],
    ["redis://a,a", "a node twice"],
    ["redis://a,,b", "an empty node"],
    ["redis://a:0", "a port too low"],
    ["redis://a:65536", "a port too high"],
    [`redis://a/${REDIS_DATABASE_MAX + 1}`, "a database too high"],
    ["redis://a,b/1", "a database of a cluster"],
    ["redis+cluster://a/1", "a database of a cluster"],
    ["redis://a/x", "a database that is no number"],
    ["redis://a?x=1", "options"],
    ["redis://:%zz@a", "a broken escape"],
    ["user:x@redis:6379", "a login without a scheme"],
    ["redis:6379/1", "a database without a scheme"],
  ] as const) {
    it(`refuses ${why}: ${text}`, () => {
      expect(parseRedisUrl(text)).to.equal(undefined);
    });
  }

  it(`takes ${REDIS_NODE_COUNT_MAX} nodes and not one more`, () => {
    const list = (count: number): string => Array.from({ length: count }, (_, i) => `n${i}:1`).join(",");

    expect(parseRedisUrl(list(REDIS_NODE_COUNT_MAX))?.nodes).to.have.length(REDIS_NODE_COUNT_MAX);
    expect(parseRedisUrl(list(REDIS_NODE_COUNT_MAX + 1))).to.equal(undefined);
  });
});
