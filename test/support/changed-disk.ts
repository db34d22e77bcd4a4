/** A disk over another one, some operations of whose files are a test's own: to count, to spoil, to forget. */
import type { Disk, DiskFile } from "../../src/std/disk.ts";

/** `disk`, where `change` says what is different about each file that is opened; everything else goes on to it. */
export function changedDisk(disk: Disk, change: (file: DiskFile) => Partial<DiskFile>): Disk {
  const wrap = (file: DiskFile): DiskFile => ({
    path: file.path,
    size: () => file.size(),
    read: (offset, length) => file.read(offset, length),
    readSync: (offset, length) => file.readSync(offset, length),
    write: (offset, parts) => file.write(offset, parts),
    sync: () => file.sync(),
    truncate: (sizeBytes) => file.truncate(sizeBytes),
    isNamed: () => file.isNamed(),
    close: () => file.close(),
    ...change(file),
  });
  return {
    open: async (path, mode) => wrap(await disk.open(path, mode)),
    makeDirectory: (path) => disk.makeDirectory(path),
    list: (path) => disk.list(path),
    exists: (path) => disk.exists(path),
    stat: (path) => disk.stat(path),
    rename: (from, to) => disk.rename(from, to),
    remove: (path) => disk.remove(path),
    syncDirectory: (path) => disk.syncDirectory(path),
    space: (path) => disk.space(path),
  };
}
