/**
 * Writes a configuration as the YAML that load.ts reads back, each setting under its description, bounds and names.
 *
 * `netdisk config print` shows it with secrets masked; deploy/netdisk.example.yaml is the same text of the defaults.
 */
import { stringify } from "yaml";
import { must } from "../std/assert.ts";
import type { Config } from "./config.ts";
import { describeKind, SETTINGS, type Setting } from "./settings.ts";

const COMMENT_WIDTH = 108;

/** What a secret is replaced by. It is not a value that load.ts accepts. */
export const MASK = "********";

/** The value that `config` has for `setting`. */
export function valueOf(config: Config, setting: Setting): unknown {
  const [section = "", field = ""] = setting.key.split(".");
  const fields = must(
    Object.entries(config).find(([name]) => name === section),
    `section ${section}`,
  )[1];
  return must(
    Object.entries(fields as object).find(([name]) => name === field),
    `setting ${setting.key}`,
  )[1];
}

/** The configuration as commented YAML. Secrets that are set are masked, unless `revealSecrets`. */
export function formatConfig(config: Config, options: { readonly revealSecrets?: boolean } = {}): string {
  const lines: string[] = [];
  let current = "";
  for (const setting of SETTINGS) {
    const [section = "", field = ""] = setting.key.split(".");
    if (section !== current) {
      if (current !== "") lines.push("");
      lines.push(`${section}:`);
      current = section;
    }
    lines.push(...wrap(setting.description), ...wrap(`${capitalise(describeKind(setting.kind))}.`));
    lines.push(...wrap(`Environment: ${setting.environment.join(", ")}. Flag: ${setting.flag}.`));
    const value = masked(setting, valueOf(config, setting), options.revealSecrets ?? false);
    lines.push(`  ${field}: ${stringify(value ?? null, { collectionStyle: "flow", lineWidth: 0 }).trim()}`);
  }
  return `${lines.join("\n")}\n`;
}

/** The configuration as plain data for JSON, absent values as null, secrets masked. */
export function configAsJson(config: Config): Record<string, Record<string, unknown>> {
  const sections: Record<string, Record<string, unknown>> = {};
  for (const setting of SETTINGS) {
    const [section = "", field = ""] = setting.key.split(".");
    (sections[section] ??= {})[field] = masked(setting, valueOf(config, setting), false) ?? null;
  }
  return sections;
}

/** The text of deploy/netdisk.example.yaml. */
export function exampleFile(defaults: Config): string {
  return [
    "# Every setting of a netdisk node with its default. A file needs only what differs.",
    "# Order of precedence: this file < environment variables < flags of `netdisk serve`.",
    "# Use it with `netdisk serve --config netdisk.yaml` or NETDISK_CONFIG=netdisk.yaml.",
    "",
    formatConfig(defaults),
  ].join("\n");
}

function masked(setting: Setting, value: unknown, reveal: boolean): unknown {
  return setting.secret && value !== undefined && !reveal ? MASK : value;
}

function capitalise(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function wrap(text: string): readonly string[] {
  const lines: string[] = [];
  let line = "  #";
  for (const word of text.split(" ")) {
    if (line.length + 1 + word.length > COMMENT_WIDTH) {
      lines.push(line);
      line = "  #";
    }
    line += ` ${word}`;
  }
  return [...lines, line];
}
