/**
 * What a node says about itself: the cluster as it sees it, health, metrics, version, the OpenAPI document and a small page.
 *
 * "live" means that the process answers. "ready" means that its own Raft and disk can serve; services outside the node never
 * make it unready.
 */
import { z } from "zod";
import type { ServiceStatus } from "../drive/drive-api.ts";
import { pageCsp, renderPage } from "./home-page.ts";
import { readOptions, route, writeOptions, type Answer, type Call, type Route } from "./route.ts";
import {
  clusterViewSchema,
  consistencySchema,
  flagSchema,
  healthViewSchema,
  versionViewSchema,
} from "./schemas.ts";
import { clusterView, serviceView } from "./views.ts";

const nodeParamsSchema = z.strictObject({ nodeId: z.string().min(1).max(255) });
const verboseQuerySchema = z.strictObject({ verbose: flagSchema.default(false) });

function health(
  problems: readonly string[],
  verbose: boolean,
  call: Call,
  {
    services,
    warnings,
  }: { services?: readonly ServiceStatus[] | undefined; warnings?: readonly string[] | undefined } = {},
): Answer {
  const more = {
    nodeId: call.nodeId,
    version: call.version,
    uptimeSeconds: Math.floor(call.uptimeMs() / 1000),
  };
  return {
    status: problems.length === 0 ? 200 : 503,
    json: {
      status: problems.length === 0 ? "ok" : "unready",
      problems,
      ...(verbose ? more : {}),
      ...(verbose && services !== undefined ? { services: services.map(serviceView) } : {}),
      ...(verbose && warnings !== undefined ? { warnings } : {}),
    },
  };
}

function readiness(call: Call): readonly string[] {
  const { ready, problems } = call.drive.readiness();
  const stopping = call.stopSignal.aborted ? ["the node is stopping"] : [];
  return ready ? stopping : [...(problems.length === 0 ? ["not ready"] : problems), ...stopping];
}

const HEALTH_RESPONSES = {
  200: { description: "Well.", schema: healthViewSchema },
  503: { description: "Not ready to serve; the problems say why.", schema: healthViewSchema },
};

function readyRoute(path: string, summary: string): Route {
  return route({
    method: "GET",
    path,
    summary,
    tag: "node",
    query: verboseQuerySchema,
    responses: HEALTH_RESPONSES,
    handle: ({ query }, call) =>
      Promise.resolve(health(readiness(call), query.verbose, call, call.drive.readiness())),
  });
}

/** Routes about the node. @param document makes the OpenAPI document, which describes these routes too */
export function nodeRoutes(document: () => unknown): readonly Route[] {
  return [
    route({
      method: "GET",
      path: "/",
      summary: "A page for people: what this node is, and where to go.",
      tag: "node",
      responses: { 200: { description: "The page.", mediaType: "text/html; charset=utf-8" } },
      async handle(_input, call) {
        // The page must come up when the cluster does not: a failure is shown, not answered.
        const cluster = await call.drive.cluster({ consistency: "stale", signal: call.signal }).then(
          (status) => status,
          (error: unknown) => (error instanceof Error ? error : new Error(String(error))),
        );
        const text = renderPage({
          nodeId: call.nodeId,
          version: call.version,
          problems: readiness(call),
          cluster,
        });
        return {
          headers: { "Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": pageCsp() },
          text,
        };
      },
    }),
    route({
      method: "GET",
      path: "/api/cluster",
      summary: "The cluster as this node sees it.",
      tag: "node",
      query: z.strictObject({ consistency: consistencySchema }),
      responses: { 200: { description: "The cluster.", schema: clusterViewSchema } },
      handle: async ({ query }, call) => ({
        json: clusterView(await call.drive.cluster(readOptions(call, query))),
      }),
    }),
    route({
      method: "POST",
      path: "/api/cluster/scrub",
      summary: "Asks every node to read and verify all its copies now.",
      tag: "node",
      responses: { 202: { description: "Every node was asked." } },
      async handle(_input, call) {
        await call.drive.startScrub(writeOptions(call));
        return { status: 202 };
      },
    }),
    route({
      method: "PUT",
      path: "/api/cluster/nodes/:nodeId/draining",
      summary: "Has a node give its copies to others and take no new ones.",
      tag: "node",
      params: nodeParamsSchema,
      responses: { 204: { description: "The node was told." } },
      async handle({ params }, call) {
        await call.drive.setDraining(params.nodeId, true, writeOptions(call));
        return { status: 204 };
      },
    }),
    route({
      method: "DELETE",
      path: "/api/cluster/nodes/:nodeId/draining",
      summary: "Ends that: the node takes copies again.",
      tag: "node",
      params: nodeParamsSchema,
      responses: { 204: { description: "The node was told." } },
      async handle({ params }, call) {
        await call.drive.setDraining(params.nodeId, false, writeOptions(call));
        return { status: 204 };
      },
    }),
    route({
      method: "GET",
      path: "/livez",
      summary: "Whether the process answers.",
      tag: "node",
      query: verboseQuerySchema,
      responses: { 200: { description: "Alive.", schema: healthViewSchema } },
      handle: ({ query }, call) => Promise.resolve(health([], query.verbose, call)),
    }),
    readyRoute("/readyz", "Whether this node can serve: its own Raft and disk."),
    readyRoute("/healthz", "The same as /readyz."),
    route({
      method: "GET",
      path: "/metrics",
      summary: "Metrics for Prometheus.",
      tag: "node",
      responses: {
        200: { description: "Text format 0.0.4.", mediaType: "text/plain; version=0.0.4; charset=utf-8" },
      },
      async handle(_input, call) {
        const { contentType, text } = await call.metrics.render();
        return { headers: { "Content-Type": contentType }, text };
      },
    }),
    route({
      method: "GET",
      path: "/version",
      summary: "The version of this node.",
      tag: "node",
      responses: { 200: { description: "The version.", schema: versionViewSchema } },
      handle: (_input, call) => Promise.resolve({ json: { nodeId: call.nodeId, version: call.version } }),
    }),
    route({
      method: "GET",
      path: "/openapi.json",
      summary: "This interface as an OpenAPI 3.1 document.",
      tag: "node",
      responses: { 200: { description: "The document.", mediaType: "application/json" } },
      handle: () => Promise.resolve({ json: document() }),
    }),
  ];
}
