/** What a scrape of a node shows. */
import { expect } from "chai";
import { noMetrics, PrometheusMetrics, type Metrics } from "../../../src/telemetry/metrics.ts";

function recordEverything(metrics: Metrics): void {
  metrics.httpRequest({ method: "GET", route: "/api/files", status: 200, durationMs: 2 });
  metrics.httpInFlight("upload", 3);
  metrics.grpcRequest({ service: "S", method: "M", code: "ok", durationMs: 2 });
  metrics.raft({ term: 7, commitIndex: 12, appliedIndex: 11, leading: true });
  metrics.leaderChanged();
  metrics.proposal("committed", 5);
  metrics.applied(4, 1);
  metrics.uploaded(1024);
  metrics.downloaded(2048);
  metrics.chunkStore({ liveBytes: 10, freeBytes: 20, lostFileCount: 3 });
  metrics.replicas({
    ...{ full: 1, under: 2, suspect: 3, corrupt: 4, lost: 5, unverified: 6, single: 7, none: 8 },
    missingBytes: 9,
  });
  metrics.copyHealth({
    ...{
      repairedBytes: 10,
      quarantinedExtents: 1,
      scrubPass: 2,
      scrubAgeMs: 3000,
      treeSnapshotBehindMs: 7000,
      scrubDamaged: 1,
    },
    ...{ scrubProgress: 0.5, disownedCopies: 1, unansweredQuestions: 2 },
  });
  metrics.collectionBrake({ orphanCount: 3, futureCount: 4 });
  metrics.featureLevel({ level: 2, supportedMax: 5 });
  metrics.peers({ up: 1, suspect: 0, down: 1 });
  metrics.synced("raft_log", 0.5);
  metrics.paused({ totalMs: 80, ownMs: 30, runningMs: 20 });
}

async function scrape(process: boolean): Promise<string> {
  const metrics = new PrometheusMetrics({ nodeId: "n1", version: "1.2.3", process });
  recordEverything(metrics);
  return (await metrics.render()).text;
}

describe("PrometheusMetrics", () => {
  it("shows each figure in base units with the node's label", async () => {
    const text = await scrape(false);
    for (const line of [
      'netdisk_build_info{version="1.2.3",node="n1"} 1',
      'netdisk_http_request_duration_seconds_count{method="GET",route="/api/files",status="200",node="n1"} 1',
      'netdisk_http_request_duration_seconds_sum{method="GET",route="/api/files",status="200",node="n1"} 0.002',
      'netdisk_http_requests_in_flight{kind="upload",node="n1"} 3',
      'netdisk_grpc_request_duration_seconds_count{service="S",method="M",code="ok",node="n1"} 1',
      'netdisk_raft_term{node="n1"} 7',
      'netdisk_raft_commit_index{node="n1"} 12',
      'netdisk_raft_applied_index{node="n1"} 11',
      'netdisk_raft_leading{node="n1"} 1',
      'netdisk_raft_leader_changes_total{node="n1"} 1',
      'netdisk_raft_proposal_duration_seconds_sum{node="n1",outcome="committed"} 0.005',
      'netdisk_applied_commands_total{node="n1"} 4',
      'netdisk_upload_bytes_total{node="n1"} 1024',
      'netdisk_download_bytes_total{node="n1"} 2048',
      'netdisk_chunk_store_live_bytes{node="n1"} 10',
      'netdisk_chunk_store_free_bytes{node="n1"} 20',
      'netdisk_extents{copies="under",node="n1"} 2',
      'netdisk_collection_braked_extents{kind="unknown",node="n1"} 3',
      'netdisk_collection_braked_extents{kind="future",node="n1"} 4',
      'netdisk_feature_level{node="n1"} 2',
      'netdisk_feature_level_supported{node="n1"} 5',
      'netdisk_peers{health="down",node="n1"} 1',
      'netdisk_event_loop_pause_seconds_sum{node="n1"} 0.03',
      'netdisk_event_loop_pause_max_seconds{counting="all",node="n1"} 0.08',
      'netdisk_fsync_duration_seconds_count{target="raft_log",node="n1"} 1',
    ]) {
      const [name, value] = [line.slice(0, line.lastIndexOf(" ")), line.slice(line.lastIndexOf(" ") + 1)];
      const labels = (text: string): string => (/\{(.*)\}/.exec(text)?.[1] ?? "").split(",").sort().join(",");
      const found = text
        .split("\n")
        .find((other) => other.startsWith(`${name.split("{")[0]}{`) && labels(other) === labels(name));
      expect(found?.endsWith(` ${value}`), `${line} in scrape, found ${found}`).to.equal(true);
    }
  });

  it("gives every metric the prefix and a help text", async () => {
    const text = await scrape(true);
    const samples = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
    expect(samples.filter((line) => !line.startsWith("netdisk_"))).to.deep.equal([]);
    expect(text).to.include("netdisk_process_cpu_seconds_total");
    expect((text.match(/^# HELP \S+ \S/gm) ?? []).length).to.equal((text.match(/^# TYPE /gm) ?? []).length);
  });

  it("tells the longest pause since the last scrape, with and without the waiting, and what of it was running", async () => {
    const metrics = new PrometheusMetrics({ nodeId: "a", version: "1", process: false });
    const longest = async (): Promise<string[]> =>
      (await metrics.render()).text
        .split("\n")
        .filter((line) => line.startsWith("netdisk_event_loop_pause_max_seconds{"))
        .map((line) => `${/counting="(\w+)"/.exec(line)?.[1]} ${line.split(" ").at(-1)}`);

    metrics.paused({ totalMs: 200, ownMs: 10, runningMs: 5 });
    metrics.paused({ totalMs: 60, ownMs: 60, runningMs: 40 });

    expect(await longest()).to.deep.equal(["all 0.2", "own 0.06", "running 0.04"]);
    expect(await longest()).to.deep.equal(["all 0", "own 0", "running 0"]);
  });

  it("keeps two nodes in one process apart", async () => {
    const a = new PrometheusMetrics({ nodeId: "a", version: "1", process: false });
    const b = new PrometheusMetrics({ nodeId: "b", version: "1", process: false });
    a.leaderChanged();
    expect((await a.render()).text).to.include('netdisk_raft_leader_changes_total{node="a"} 1');
    expect((await b.render()).text).to.include('netdisk_raft_leader_changes_total{node="b"} 0');
  });

  it("takes a clock that went back as no time", () => {
    new PrometheusMetrics({ nodeId: "a", version: "1", process: false }).synced("state", -1);
  });
});

describe("noMetrics", () => {
  it("takes every figure and shows none", async () => {
    recordEverything(noMetrics);
    expect((await noMetrics.render()).text).to.equal("");
  });
});
