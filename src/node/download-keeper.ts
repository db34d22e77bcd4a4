/** The prepared downloads of a node, put together: what users ask, what works on their tasks, and what gives back the old ones. */
import { BackgroundPace } from "../replication/background-pace.ts";
import type { Clock } from "../std/clock.ts";
import type { TaskKind } from "../drive/task.ts";
import type { TaskHandler } from "../tasks/task-handler.ts";
import { TaskTable } from "../tasks/task-table.ts";
import { DownloadMaker } from "../transfer/download-maker.ts";
import { DownloadSweeper } from "../transfer/download-sweeper.ts";
import { DownloadTaskHandler, PreparedDownloads } from "../transfer/prepared-downloads.ts";
import { FilePutter } from "../transfer/put-file.ts";
import { Snapshots } from "../transfer/snapshot.ts";
import { TreeReads } from "../transfer/tree-reads.ts";
import { UploadManager } from "../transfer/upload-manager.ts";
import type { StoreKeeper } from "./store-keeper.ts";

/** Bytes a second that preparing reads while users move bytes: somebody waits for it, so more than repair takes. */
const PREPARE_BUSY_BYTES_PER_SECOND = 64 * 1024 * 1024;

/** The prepared downloads of a node. */
export class DownloadKeeper {
  readonly api: PreparedDownloads;
  /** For the worker of tasks. */
  readonly handler: readonly [TaskKind, TaskHandler];
  /** A loop of the node. */
  readonly sweeper: DownloadSweeper;

  constructor(clock: Clock, keeper: StoreKeeper) {
    const { plane } = keeper;
    const { metadata } = plane;
    const table = new TaskTable(metadata);
    const reads = new TreeReads(metadata);
    const snapshots = new Snapshots(metadata, reads);
    this.api = new PreparedDownloads({ plane, reads, tasks: table });
    const maker = new DownloadMaker({
      plane,
      snapshots,
      putter: new FilePutter(plane, new UploadManager(plane)),
      pace: new BackgroundPace({
        clock,
        bytesPerSecond: () => Infinity,
        busyBytesPerSecond: PREPARE_BUSY_BYTES_PER_SECOND,
        isBusy: () => keeper.isUsed(),
      }),
    });
    this.handler = ["download", new DownloadTaskHandler(maker, this.api)];
    this.sweeper = new DownloadSweeper({
      clock,
      metadata,
      snapshots,
      findTask: (taskId) => table.find(taskId),
      onError: keeper.onError("downloads"),
    });
  }
}
