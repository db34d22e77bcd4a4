/** Tasks over HTTP, Connect and on the command line, over the real table. */
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { expect } from "chai";
import { TaskKind, TaskState } from "../../../gen/netdisk/v1/task_pb.ts";
import { TaskService } from "../../../gen/netdisk/v1/task_service_pb.ts";
import { MetadataClient } from "../../../src/cluster/metadata-client.ts";
import { TASK_PAGE_SIZE_MAX } from "../../../src/drive/limits.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { TaskTable } from "../../../src/tasks/task-table.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { MemoryTree } from "../../support/memory-metadata-port.ts";
import { netdisk } from "../cli/run-cli.ts";
import { errorOf, useGateway } from "./use-gateway.ts";

describe("Tasks for users", () => {
  const at = useGateway();
  let tree: MemoryTree;
  let clock: FakeClock;

  beforeEach(async () => {
    clock = new FakeClock();
    tree = new MemoryTree(clock);
    const table = new TaskTable(new MetadataClient(tree.port(1), new SeededPrng(99)));
    at.drive.tasks = table;
    await table.create({ kind: "upload", key: "", parameters: utf8('{"entryIds":[7]}') });
    await table.create({ kind: "download", key: "", parameters: utf8("") });
    await table.create({ kind: "upload", key: "", parameters: utf8("") });
    const claimed = tree.apply({ kind: "claim-task", taskId: 1, memberId: 5, leaseMs: 1000 });
    const hold = { taskId: 1, fence: claimed.index };
    tree.apply({ kind: "fail-task", hold, reason: "CHUNK_LOST", message: "No copy.", isFinal: true });
  });

  const get = async (path: string): Promise<unknown> => (await at.fetch(path)).json();
  const idsOf = (page: unknown): string[] =>
    (page as { tasks: { taskId: string }[] }).tasks.map(({ taskId }) => taskId);

  it("are listed newest first, by kind and state, page by page", async () => {
    expect(idsOf(await get("/api/tasks"))).to.deep.equal(["3", "2", "1"]);
    expect(idsOf(await get("/api/tasks?kind=upload&state=waiting"))).to.deep.equal(["3"]);
    const first = (await get("/api/tasks?limit=2")) as { nextCursor: string };
    expect(idsOf(await get(`/api/tasks?limit=2&cursor=${first.nextCursor}`))).to.deep.equal(["1"]);
    expect((await at.fetch(`/api/tasks?limit=${TASK_PAGE_SIZE_MAX}`)).status).to.equal(200);
    for (const query of [`limit=${TASK_PAGE_SIZE_MAX + 1}`, "limit=0", "kind=x", "state=x", "cursor=x"]) {
      expect((await at.fetch(`/api/tasks?${query}`)).status, query).to.equal(400);
    }
  });

  it("are shown one by one, with parameters, attempts and error", async () => {
    expect(await get("/api/tasks/1")).to.deep.include({
      ...{ taskId: "1", kind: "upload", state: "failed", attempts: 1, memberId: "5" },
      ...{
        parameters: { entryIds: [7] },
        result: null,
        error: { reason: "CHUNK_LOST", message: "No copy." },
      },
    });
    const absent = await at.fetch("/api/tasks/99");
    expect([absent.status, await errorOf(absent)]).to.deep.equal([404, "404 TASK_NOT_FOUND"]);
  });

  it("say when they were made and changed by the clock on the wall, everywhere", async () => {
    const { taskId } = await at.drive.tasks.create({ kind: "upload", key: "", parameters: utf8("") });
    await clock.advance(60_000);
    tree.apply({ kind: "cancel-task", taskId });
    const [createTime, updateTime] = ["2026-01-01T00:00:00.000Z", "2026-01-01T00:01:00.000Z"];

    expect(await get(`/api/tasks/${taskId}`)).to.include({ createTime, updateTime });
    const client = createClient(TaskService, createConnectTransport({ baseUrl: at.url, httpVersion: "1.1" }));
    const { task } = await client.getTask({ taskId: BigInt(taskId) });
    expect(task).to.include({
      createTimeMs: BigInt(Date.parse(createTime)),
      updateTimeMs: BigInt(Date.parse(updateTime)),
    });
    const { drive } = at;
    expect((await netdisk(["tasks", "ls", "--limit", "1"], { drive })).out).to.contain("2026-01-01 00:00:00");
    const [shown] = (await netdisk(["tasks", "show", String(taskId), "--json"], { drive })).records();
    expect(shown).to.include({ createTime, updateTime });
  });

  it("are cancelled and retried over HTTP, each harmless twice", async () => {
    const retry = () => at.fetch("/api/tasks/1/retry", { method: "POST" });
    const first = await retry();
    expect(first.status, await first.clone().text()).to.equal(200);
    expect(await first.json()).to.include({ state: "waiting", attempts: 0 });
    expect((await retry()).status).to.equal(200);
    const cancel = () => at.fetch("/api/tasks/1", { method: "DELETE" });
    expect(await (await cancel()).json()).to.include({ state: "cancelled" });
    expect((await cancel()).status).to.equal(200);
    const claimed = tree.apply({ kind: "claim-task", taskId: 3, memberId: 5, leaseMs: 1000 });
    const hold = { taskId: 3, fence: claimed.index };
    tree.apply({ kind: "finish-task", hold, result: utf8("{}") });
    const conflict = await at.fetch("/api/tasks/3", { method: "DELETE" });
    expect([conflict.status, await errorOf(conflict)]).to.deep.equal([409, "409 TASK_STATE_CONFLICT"]);
  });

  it("are the same over Connect", async () => {
    const client = createClient(TaskService, createConnectTransport({ baseUrl: at.url, httpVersion: "1.1" }));
    const page = await client.listTasks({ kind: TaskKind.UPLOAD, pageSize: 1 });
    expect(page.tasks.map(({ taskId }) => taskId)).to.deep.equal([3n]);
    expect((await client.listTasks({ pageToken: page.nextPageToken })).tasks).to.have.length(2);
    expect((await client.getTask({ taskId: 1n })).task).to.include({
      state: TaskState.FAILED,
      errorReason: "CHUNK_LOST",
    });
    expect((await client.retryTask({ taskId: 1n })).task).to.include({ state: TaskState.WAITING });
    expect((await client.cancelTask({ taskId: 1n })).task).to.include({ state: TaskState.CANCELLED });
  });

  it("are listed, shown, cancelled and retried on the command line", async () => {
    const { drive } = at;
    const list = await netdisk(["tasks", "ls", "--kind", "upload"], { drive });
    expect(list.out).to.match(
      /TASK\s+KIND\s+STATE[^]*3\s+upload\s+waiting[^]*1\s+upload\s+failed\s+1\/5\s+-\s+2026-01-01 00:00:00\s+CHUNK_LOST/,
    );
    expect((await netdisk(["tasks", "show", "1"], { drive })).out).to.match(
      /state\s+failed[^]*"entryIds":\[7\]/,
    );
    expect((await netdisk(["tasks", "retry", "1", "--json"], { drive })).records()[0]).to.include({
      state: "waiting",
    });
    expect((await netdisk(["tasks", "cancel", "1"], { drive })).out).to.match(/state\s+cancelled/);
    expect((await netdisk(["tasks", "show", "99"], { drive })).code).not.to.equal(0);
    expect((await netdisk(["tasks", "show", "x"], { drive })).err).to.include("netdisk tasks ls");
  });
});
