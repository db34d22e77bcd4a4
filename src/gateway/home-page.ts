/**
 * The page at "/": plain HTML, no script, for a person who opened a node's address in a browser.
 *
 * Every value is escaped; the content security policy allows the one inline style by its digest and nothing else.
 */
import {
  describeFree,
  describeHealth,
  describePrepared,
  describeServices,
  judgeCopies,
} from "../drive/cluster-judgement.ts";
import type { ClusterStatus } from "../drive/drive-api.ts";
import { utf8 } from "../std/bytes.ts";
import { sha256 } from "../std/digest.ts";
import { formatBytes, formatQuantity } from "../std/format.ts";

/** What the page shows. */
export interface PageModel {
  readonly nodeId: string;
  readonly version: string;
  readonly problems: readonly string[];
  /** The cluster, or why it is not known. */
  readonly cluster: ClusterStatus | Error;
}

const STYLE = `
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #ddd; }
code { background: #f3f3f3; padding: .1rem .3rem; } .bad { color: #b00020; }
@media (prefers-color-scheme: dark) { body { background: #161616; color: #ddd; } code { background: #2a2a2a; } a { color: #8ab4f8; } }
`;

/** The policy that goes with the page. */
export function pageCsp(): string {
  const digest = Buffer.from(sha256(utf8(STYLE))).toString("base64");
  return `default-src 'none'; style-src 'sha256-${digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`;
}

const ESCAPES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

function escape(text: string | number): string {
  return String(text).replaceAll(/[&<>"']/g, (character) => ESCAPES[character] ?? "");
}

function link(url: string, text = url): string {
  // Only web addresses become links: a javascript: URL from a configuration would run here.
  return /^(https?:\/\/|\/)/.test(url) ? `<a href="${escape(url)}">${escape(text)}</a>` : escape(text);
}

/** A paragraph that stands out when what it says is not well. */
function line(text: string, isWell: boolean): string {
  return `<p${isWell ? "" : ' class="bad"'}>${escape(text)}</p>`;
}

function clusterSection(cluster: ClusterStatus | Error): string {
  if (cluster instanceof Error) return line(`The cluster is not known: ${cluster.message}`, false);
  const rows = cluster.nodes.map((node) => {
    const known = `${describeHealth(node)}${node.lost ? ", given up" : ""}`;
    const health = known === "up" ? "up" : `<span class="bad">${escape(known)}</span>`;
    const url = node.publicUrl === "" ? node.httpUrl : node.publicUrl;
    return `<tr><td>${escape(node.nodeId)}</td><td>${escape(node.role)}</td><td>${health}</td><td>${link(url)}</td><td>${escape(describeFree(node))}</td></tr>`;
  });
  const { fully, sentence } = judgeCopies(cluster);
  const services = describeServices(cluster).map(({ text, isWell }) => `${line(text, isWell)}\n`);
  const prepared = describePrepared(cluster).map((text) => `${line(text, true)}\n`);
  return `<p>${formatQuantity(cluster.fileCount, "file")} in ${formatQuantity(cluster.directoryCount, "folder")}, ${formatBytes(cluster.contentBytes)} (bytes that files share count once).</p>
${prepared.join("")}${line(sentence, fully)}
${services.join("")}<table><tr><th>Node</th><th>Role</th><th>Health</th><th>Address</th><th>Free</th></tr>
${rows.join("\n")}
</table>`;
}

/** The page as HTML. */
export function renderPage(model: PageModel): string {
  const state =
    model.problems.length === 0
      ? line("This node is ready.", true)
      : line(`This node is not ready: ${model.problems.join("; ")}`, false);
  const links = ["/api/files", "/api/cluster", "/readyz?verbose", "/metrics", "/openapi.json"];
  return `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>netdisk ${escape(model.nodeId)}</title>
<style>${STYLE}</style></head>
<body>
<h1>netdisk, node ${escape(model.nodeId)}</h1>
<p>Version ${escape(model.version)}.</p>
${state}
${clusterSection(model.cluster)}
<h2>From a shell</h2>
<p><code>curl -T file.bin 'URL/api/files/content?path=/file.bin'</code> uploads,
<code>curl -fLOJ 'URL/api/download?path=/file.bin'</code> downloads
(with <code>-fLo NAME</code> where the name is not plain ASCII, which curl does not take over).</p>
<h2>Interfaces</h2>
<ul>
${links.map((url) => `<li>${link(url)}</li>`).join("\n")}
</ul>
</body>
</html>
`;
}
