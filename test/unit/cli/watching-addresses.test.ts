/** Goal: while a node leaves, somebody who stays is asked, whoever was named and by whatever name. */
import { expect } from "chai";
import { watchingAddresses } from "../../../src/cli/watching-addresses.ts";

const nodes = ["a", "b", "c"].map((nodeId, at) => ({
  ...{ nodeId, memberId: at + 1, address: `${nodeId}:1` },
  health: nodeId === "b" ? "down" : "up",
}));

describe("watchingAddresses", () => {
  it("has the given ones first, then those that are known, the living before the others", () => {
    const { before, after } = watchingAddresses(["a:1", "proxy:1"], { nodeId: "c", nodes }, "a");
    expect(before).to.deep.equal(["a:1", "proxy:1", "c:1", "b:1"]);
    expect(after).to.deep.equal(["proxy:1", "c:1", "b:1"]);
  });

  it("leaves out the only address that was given when who answers there is the one that goes", () => {
    const { before, after } = watchingAddresses(["localhost:1"], { nodeId: "a", nodes }, "1");
    expect(before).to.deep.equal(["localhost:1", "c:1", "b:1"]);
    expect(after).to.deep.equal(["c:1", "b:1"]);
  });

  it("keeps what was given when nobody else is known", () => {
    const { after } = watchingAddresses(["a:1"], { nodeId: "a", nodes: nodes.slice(0, 1) }, "a");
    expect(after).to.deep.equal(["a:1"]);
  });

  it("asks everybody when the node to remove is not known", () => {
    const { before, after } = watchingAddresses(["a:1"], { nodeId: "a", nodes }, "nobody");
    expect(after).to.deep.equal(before);
  });
});
