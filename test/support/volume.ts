/**
 * A disk of a node's own, for tests that fill it or make it hang: an ext4 file system in a sparse file, mounted by the loop device.
 * That takes root; without it a volume is a plain folder, which can be neither filled nor frozen.
 */
import { execFileSync } from "node:child_process";
import { closeSync, ftruncateSync, mkdirSync, openSync, rmSync, statfsSync } from "node:fs";
import { join } from "node:path";

/** Size of a volume; the file behind it is sparse. */
const VOLUME_SIZE_BYTES = 8 * 1024 * 1024 * 1024;

/** A folder on a file system of its own. */
export class Volume {
  readonly directory: string;
  /** Whether it is a file system of its own, which can be filled and frozen. */
  readonly isOwn: boolean;
  readonly #image: string;
  readonly #filler: string;
  #isFrozen = false;

  private constructor(directory: string, isOwn: boolean) {
    this.directory = directory;
    this.isOwn = isOwn;
    this.#image = `${directory}.img`;
    this.#filler = join(directory, "filler");
  }

  /** Whether this process may make file systems: root with loop devices. */
  static isPossible(): boolean {
    if (process.getuid?.() !== 0) return false;
    try {
      execFileSync("losetup", ["--find"], { stdio: "ignore" });
      execFileSync("sh", ["-c", "command -v mkfs.ext4 && command -v fsfreeze"], { stdio: "ignore" });
      return true;
    } catch {
      return false;
    }
  }

  /** Makes the folder, with a file system of its own when that is wanted and possible. */
  static make(directory: string, wantsOwn: boolean): Volume {
    mkdirSync(directory);
    const volume = new Volume(directory, wantsOwn && Volume.isPossible());
    if (!volume.isOwn) return volume;
    const image = openSync(volume.#image, "w");
    ftruncateSync(image, VOLUME_SIZE_BYTES);
    closeSync(image);
    execFileSync("mkfs.ext4", ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1", volume.#image]);
    execFileSync("mount", ["-o", "loop", volume.#image, directory]);
    rmSync(join(directory, "lost+found"), { recursive: true });
    return volume;
  }

  /** Takes all space but `freeBytes`. */
  fill(freeBytes: number): void {
    const { bavail, bsize } = statfsSync(this.directory);
    const sizeBytes = bavail * bsize - freeBytes;
    if (sizeBytes > 0) execFileSync("fallocate", ["-l", String(sizeBytes), this.#filler]);
  }

  /** Gives the space back. */
  free(): void {
    rmSync(this.#filler, { force: true });
  }

  /** From now on every write and sync waits, as on a disk that hangs; reads of cached pages go on. */
  freeze(): void {
    execFileSync("fsfreeze", ["--freeze", this.directory]);
    this.#isFrozen = true;
  }

  thaw(): void {
    if (!this.#isFrozen) return;
    execFileSync("fsfreeze", ["--unfreeze", this.directory]);
    this.#isFrozen = false;
  }

  /** Unmounts it, and removes what is on it unless `keep`: then the image stays beside the folder. */
  dispose(keep: boolean): void {
    this.thaw();
    this.free();
    if (this.isOwn) execFileSync("umount", [this.directory]);
    if (keep) return;
    rmSync(this.#image, { force: true });
    rmSync(this.directory, { recursive: true, force: true });
  }
}
