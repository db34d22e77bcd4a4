/** Finds the program of a service on this machine, or installs it from Debian's packages. */
import { execFile } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import type { ServiceKind } from "./service-kind.ts";

const run = promisify(execFile);
const INSTALL_WITHIN_MS = 300_000;

/** Folders that match a path in which a segment may hold one `*`; the highest name first, so that the newest version wins. */
function expand(pattern: string): readonly string[] {
  let folders = [""];
  for (const segment of pattern.split("/").slice(1)) {
    folders = folders.flatMap((folder) => {
      if (!segment.includes("*")) return [`${folder}/${segment}`];
      const [head = "", tail = ""] = segment.split("*");
      if (!existsSync(folder)) return [];
      return readdirSync(folder)
        .filter((name) => name.startsWith(head) && name.endsWith(tail))
        .sort((left, right) => right.localeCompare(left, "en", { numeric: true }))
        .map((name) => `${folder}/${name}`);
    });
  }
  return folders;
}

/** Path of the service's program; undefined when it is not installed. */
export function findProgram(kind: ServiceKind): string | undefined {
  const folders = [...kind.programFolders.flatMap(expand), ...(process.env["PATH"] ?? "").split(":")];
  return folders.map((folder) => join(folder, kind.program)).find((path) => existsSync(path));
}

/**
 * Path of the service's program, installed from Debian's packages when it is missing and the tests run as root.
 * @throws when it can be neither found nor installed; the message says what would help
 */
export async function needProgram(kind: ServiceKind): Promise<string> {
  const found = findProgram(kind);
  if (found !== undefined) return found;
  const hint = `${kind.name}: no server to be had. Set ${kind.variable}, start a Docker engine, or install`;
  await installPackages(kind.packages, hint);
  const installed = findProgram(kind);
  if (installed === undefined) throw new Error(`${kind.packages.join(" ")} brought no ${kind.program}`);
  return installed;
}

/**
 * Makes sure that a command is there, installed from Debian's packages when it is missing and the tests run as root.
 * @throws when it can be neither found nor installed
 */
export async function needTool(program: string, packages: readonly string[]): Promise<void> {
  const isThere = (process.env["PATH"] ?? "").split(":").some((folder) => existsSync(join(folder, program)));
  if (!isThere) await installPackages(packages, `${program} is missing. Install`);
}

async function installPackages(packages: readonly string[], hint: string): Promise<void> {
  if (process.getuid?.() !== 0 || !existsSync("/usr/bin/apt-get"))
    throw new Error(`${hint} ${packages.join(" ")}.`);
  const environment = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  const options = { env: environment, timeout: INSTALL_WITHIN_MS, maxBuffer: 64 * 1024 * 1024 };
  await run("apt-get", ["-o", "DPkg::Lock::Timeout=120", "update"], options);
  const install = ["-o", "DPkg::Lock::Timeout=120", "install", "-y", "--no-install-recommends", ...packages];
  await run("apt-get", install, options);
}
