/**
 * The OpenAPI 3.1 document of the routes, made from the same list that the server registers.
 *
 * Schemas with an id become components. Every operation has the error answer as its default.
 */
import { z } from "zod";
import type { Route } from "./route.ts";
import { errorViewSchema } from "./schemas.ts";

type Json = Record<string, unknown>;

/** Settings of the document. */
export interface DocumentOptions {
  readonly version: string;
}

/** The path of a route as OpenAPI writes it: ":name" becomes "{name}". */
export function openApiPath(path: string): string {
  return path.replaceAll(/:([A-Za-z]+)/g, "{$1}");
}

/** The whole document. */
export function openApiDocument(routes: readonly Route[], options: DocumentOptions): Json {
  const components: Json = {};
  const schemaOf = (schema: z.ZodType): Json => collect(schema, components);
  const paths: Record<string, Json> = {};
  for (const route of routes) {
    const item = (paths[openApiPath(route.path)] ??= {});
    item[route.method.toLowerCase()] = operation(route, route.method, schemaOf);
    if (route.head) item["head"] = operation(route, "HEAD", schemaOf);
  }
  return {
    openapi: "3.1.0",
    info: {
      title: "netdisk",
      version: options.version,
      description: "A distributed network drive. Every node serves every route.",
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
    servers: [{ url: "/" }],
    tags: [
      { name: "uploads", description: "Bytes in." },
      { name: "downloads", description: "Bytes out." },
      { name: "files", description: "The tree." },
      { name: "tasks", description: "Work in the background." },
      { name: "node", description: "The node and its cluster." },
    ],
    paths,
    components: { schemas: components },
  };
}

function collect(schema: z.ZodType, components: Json): Json {
  const id = schema.meta()?.["id"];
  const { $schema, ...rest } = z.toJSONSchema(schema, { io: "input", target: "draft-2020-12" }) as Json;
  void $schema;
  return hoist(rest, typeof id === "string" ? id : undefined, components);
}

/** Moves the definitions of `schema` into the components, and `schema` itself when it has an id. */
function hoist(schema: Json, id: string | undefined, components: Json): Json {
  const { $defs, id: ownId, ...rest } = schema as Json & { $defs?: Record<string, Json>; id?: unknown };
  void ownId;
  for (const [name, definition] of Object.entries($defs ?? {})) {
    const { id: inner, ...body } = definition;
    void inner;
    components[name] = pointed(body);
  }
  if (id === undefined) return pointed(rest) as Json;
  components[id] = pointed(rest);
  return { $ref: `#/components/schemas/${id}` };
}

/** References of JSON Schema turned into references of the document. */
function pointed(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(pointed);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [
      key,
      key === "$ref" && typeof inner === "string"
        ? inner.replace("#/$defs/", "#/components/schemas/")
        : pointed(inner),
    ]),
  );
}

function operation(route: Route, method: string, schemaOf: (schema: z.ZodType) => Json): Json {
  const headers = Object.entries(route.requestHeaders).map(([name, description]) => ({
    name,
    in: "header",
    required: false,
    description,
    schema: { type: "string" },
  }));
  const responses: Json = {};
  for (const [status, doc] of Object.entries(route.responses)) {
    const mediaType = doc.mediaType ?? (doc.schema === undefined ? undefined : "application/json");
    const content =
      mediaType === undefined || method === "HEAD"
        ? {}
        : { content: { [mediaType]: doc.schema === undefined ? {} : { schema: schemaOf(doc.schema) } } };
    responses[status] = { description: doc.description, ...content };
  }
  responses["default"] = {
    description: "An error.",
    content: { "application/json": { schema: schemaOf(errorViewSchema) } },
  };
  return {
    operationId: operationId(route, method),
    summary: route.summary,
    tags: [route.tag],
    parameters: [...parameters(route.params, "path"), ...parameters(route.query, "query"), ...headers],
    ...(route.body === undefined
      ? {}
      : {
          requestBody: {
            required: true,
            content:
              route.body === "bytes"
                ? { "application/octet-stream": {} }
                : { "application/json": { schema: schemaOf(route.body) } },
          },
        }),
    responses,
  };
}

/** A name for generated clients: method and path in camel case, unique because the pair is. */
function operationId(route: Route, method: string): string {
  const words = route.path.split(/[/:.]+/).filter((word) => word !== "");
  return method.toLowerCase() + words.map((word) => word[0]?.toUpperCase() + word.slice(1)).join("");
}

function parameters(schema: z.ZodObject | undefined, where: "path" | "query"): Json[] {
  if (schema === undefined) return [];
  const json = z.toJSONSchema(schema, { io: "input" }) as {
    properties?: Record<string, Json>;
    required?: string[];
  };
  return Object.entries(json.properties ?? {}).map(([name, property]) => {
    const { description, ...rest } = property;
    return {
      name,
      in: where,
      required: json.required?.includes(name) === true,
      ...(description === undefined ? {} : { description }),
      schema: rest,
    };
  });
}
