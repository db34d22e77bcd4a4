// The command that `netdisk cluster add` prints: complete on one machine, with one word to put in otherwise.
import { expect } from "chai";
import { joinCommand } from "../../../src/cli/join-command.ts";

const node = (nodeId: string, address: string, httpUrl: string) => ({ nodeId, address, httpUrl });

describe("joinCommand()", () => {
  it("is complete for nodes that share this machine: a free name and the next ports", () => {
    const nodes = [
      node("node1", "127.0.0.1:29001", "http://127.0.0.1:9081"),
      node("node4", "127.0.0.1:29003", "http://127.0.0.1:9084"),
      node("node3", "127.0.0.1:29002", "http://127.0.0.1:9083"),
    ];
    expect(joinCommand("T", "127.0.0.1:29001", nodes)).to.deep.equal({
      command:
        "netdisk serve --join T --cluster-peers 127.0.0.1:29001 --node-id node5 --node-address 127.0.0.1:29004" +
        " --http-port 9085 --data-directory ./node5",
      hint: undefined,
    });
  });

  it("gives one that takes another's place that one's name, address and ports", () => {
    const gone = node("node2", "127.0.0.1:29002", "http://127.0.0.1:9082");
    const nodes = [node("node1", "127.0.0.1:29001", "http://127.0.0.1:9081"), gone];
    expect(joinCommand("T", "127.0.0.1:29001", nodes, gone)).to.deep.equal({
      command:
        "netdisk serve --join T --cluster-peers 127.0.0.1:29001 --node-id node2 --node-address 127.0.0.1:29002" +
        " --http-port 9082 --data-directory ./node2",
      hint: undefined,
    });
    const far = joinCommand("T", "x:1", nodes, node("b", "10.0.0.2:7001", ""));
    expect(far.command).to.include("--node-id b --node-address 10.0.0.2:7001 --http-port 9081");
    expect(far.hint).to.match(/^10\.0\.0\.2 is where b was/);
  });

  it("leaves the new machine's address to the reader elsewhere, with the ports of the others", () => {
    const nodes = [node("a", "10.0.0.1:7001", "http://10.0.0.1:80/"), node("b", "10.0.0.2:7001", "")];
    const { command, hint } = joinCommand("T", "10.0.0.1:7001", nodes);
    expect(command).to.include("--node-id node3 --node-address HOST:7001 ");
    expect(hint).to.match(/^HOST stands for/);
  });

  it("writes an IPv6 address with brackets, and takes usual ports where none is known or free", () => {
    expect(joinCommand("T", "x:1", [node("a", "[::1]:7001", "")]).command).to.include(
      "--node-address [::1]:7002 ",
    );
    expect(joinCommand("T", "x:1", [node("a", "[::1]:65535", "http://[::1]:65535")]).command).to.include(
      "--node-address [::1]:29001 --http-port 9081",
    );
    expect(joinCommand("T", "x:1", []).command).to.include("--node-address HOST:29001 --http-port 9081");
  });
});
