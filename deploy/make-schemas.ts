/**
 * Makes the JSON schemas that the manifests are held to, small enough to be kept with the tests: from Kubernetes' own OpenAPI description and
 * the custom resource definitions of Knative and Istio, strict (a field that nobody knows is an error), without descriptions.
 *
 *   go mod download k8s.io/kubernetes@v1.34.1 istio.io/api@v1.27.1 knative.dev/serving@v0.51.0
 *   node deploy/make-schemas.ts "$(go env GOMODCACHE)" [compose-spec.json]
 *
 * The second file is the schema of the Compose Specification; its own descriptions are left out too. Needed only to take up a new version.
 * Kubernetes, Istio, Knative and the Compose Specification are under the Apache License 2.0.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseAllDocuments } from 'yaml';
import { SCHEMAS } from './manifests.ts';

const KUBERNETES = 'k8s.io/kubernetes@v1.34.1/api/openapi-spec/swagger.json';
/** Group, version and kind, as Kubernetes' description names them. */
const KINDS: readonly (readonly [group: string, version: string, kind: string])[] = [
  ['', 'v1', 'PersistentVolumeClaim'],
  ['', 'v1', 'Secret'],
  ['', 'v1', 'Service'],
  ['', 'v1', 'ServiceAccount'],
  ['apps', 'v1', 'Deployment'],
  ['autoscaling', 'v2', 'HorizontalPodAutoscaler'],
  ['networking.k8s.io', 'v1', 'NetworkPolicy'],
  ['policy', 'v1', 'PodDisruptionBudget'],
];
const CUSTOM_KINDS: readonly (readonly [file: string, kind: string, version: string])[] = [
  ['istio.io/api@v1.27.1/kubernetes/customresourcedefinitions.gen.yaml', 'VirtualService', 'v1'],
  ['istio.io/api@v1.27.1/kubernetes/customresourcedefinitions.gen.yaml', 'DestinationRule', 'v1'],
  ['knative.dev/serving@v0.51.0/config/core/300-resources/service.yaml', 'Service', 'v1'],
];

type Schema = { [key: string]: unknown };

const KEPT = new Set(['type', 'required', 'enum', 'pattern', 'minimum', 'maximum', 'minLength']);
const STRING_OR_NUMBER = { anyOf: [{ type: 'string' }, { type: 'integer' }] };
/** Types that have more than one form on the wire, which their definitions do not say. */
const LOOSE: Readonly<Record<string, Schema>> = {
  'io.k8s.apimachinery.pkg.util.intstr.IntOrString': STRING_OR_NUMBER,
  'io.k8s.apimachinery.pkg.api.resource.Quantity': {
    anyOf: [{ type: 'string' }, { type: 'number' }],
  },
};

/** `schema` with what restricts values, and nothing else; every object closed that lists its properties. */
function strict(schema: Schema, refs: Set<string>): Schema {
  const ref = (schema.$ref as string | undefined)?.replace('#/definitions/', '');
  if (ref !== undefined) {
    refs.add(ref);
    return { $ref: `#/definitions/${ref}` };
  }
  if (schema['x-kubernetes-int-or-string'] === true) return STRING_OR_NUMBER;
  const result: Schema = {};
  for (const [key, value] of Object.entries(schema)) if (KEPT.has(key)) result[key] = value;
  const { properties, items, additionalProperties } = schema;
  if (properties !== undefined) {
    result.properties = Object.fromEntries(
      Object.entries(properties as Record<string, Schema>).map(([name, inner]) => [
        name,
        strict(inner, refs),
      ]),
    );
    if (schema['x-kubernetes-preserve-unknown-fields'] !== true)
      result.additionalProperties = false;
  }
  if (items !== undefined) result.items = strict(items as Schema, refs);
  if (typeof additionalProperties === 'object') {
    result.additionalProperties = strict(additionalProperties as Schema, refs);
  }
  for (const list of ['oneOf', 'anyOf', 'allOf'] as const) {
    if (schema[list] !== undefined) {
      // Inside of these, objects are conditions on the whole, not the whole.
      result[list] = (schema[list] as Schema[]).map(conditionOf);
    }
  }
  if (schema.not !== undefined) result.not = conditionOf(schema.not as Schema);
  return result;
}

function conditionOf(schema: Schema): Schema {
  const { description: _, ...rest } = schema;
  return rest;
}

/** As kubeconform's `{{.ResourceKind}}{{.KindSuffix}}` names it. */
function save(group: string, version: string, kind: string, schema: Schema): void {
  const prefix = group === '' ? '' : `${group.split('.')[0]}-`;
  const file = join(SCHEMAS, `${kind.toLowerCase()}-${prefix}${version}.json`);
  const apiVersion = group === '' ? version : `${group}/${version}`;
  const properties = { ...(schema.properties as Schema) };
  properties.apiVersion = { type: 'string', enum: [apiVersion] };
  properties.kind = { type: 'string', enum: [kind] };
  const required = [...new Set(['apiVersion', 'kind', ...((schema.required as string[]) ?? [])])];
  writeFileSync(file, `${JSON.stringify({ ...schema, properties, required })}\n`);
}

function makeKubernetes(modules: string): void {
  const { definitions } = JSON.parse(readFileSync(join(modules, KUBERNETES), 'utf8')) as {
    definitions: Record<string, Schema>;
  };
  for (const [group, version, kind] of KINDS) {
    const entry = Object.entries(definitions).find(([, definition]) => {
      const names = (definition['x-kubernetes-group-version-kind'] ?? []) as Schema[];
      const isIt = (name: Schema): boolean =>
        name.group === group && name.version === version && name.kind === kind;
      return names.length === 1 && isIt(names[0]!);
    });
    if (entry === undefined) throw new Error(`no definition of ${group}/${version} ${kind}`);
    const refs = new Set<string>();
    const root = strict(entry[1], refs);
    const reached: Record<string, Schema> = {};
    // A Set takes in what is added while it is walked.
    for (const name of refs) reached[name] = LOOSE[name] ?? strict(definitions[name]!, refs);
    save(group, version, kind, { ...root, definitions: reached });
  }
}

/** What every custom resource may say of itself. */
const METADATA = {
  type: 'object',
  required: ['name'],
  additionalProperties: false,
  properties: {
    name: { type: 'string' },
    namespace: { type: 'string' },
    labels: { type: 'object', additionalProperties: { type: 'string' } },
    annotations: { type: 'object', additionalProperties: { type: 'string' } },
  },
};

interface CustomResourceDefinition {
  spec: {
    group: string;
    names: { kind: string };
    versions: { name: string; schema: { openAPIV3Schema: Schema } }[];
  };
}

function makeCustom(modules: string): void {
  for (const [file, kind, version] of CUSTOM_KINDS) {
    const documents = parseAllDocuments(readFileSync(join(modules, file), 'utf8'));
    const crds = documents.map((document) => document.toJS() as CustomResourceDefinition | null);
    const crd = crds.find((one) => one?.spec.names.kind === kind);
    const found = crd?.spec.versions.find(({ name }) => name === version);
    if (crd === null || crd === undefined || found === undefined) {
      throw new Error(`${file} defines no ${kind} ${version}`);
    }
    const root = strict(found.schema.openAPIV3Schema, new Set());
    const properties = { ...(root.properties as Schema), metadata: METADATA };
    delete (properties as Schema).status;
    save(crd.spec.group, version, kind, { ...root, properties, required: ['metadata', 'spec'] });
  }
}

/** `schema` without what only people read. */
function withoutWords(schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map(withoutWords);
  if (typeof schema !== 'object' || schema === null) return schema;
  // A property may be called "title" or "description": only texts are words.
  const isWord = ([key, value]: [string, unknown]): boolean =>
    ['title', 'description', '$comment'].includes(key) && typeof value === 'string';
  const entries = Object.entries(schema).filter((entry) => !isWord(entry));
  return Object.fromEntries(entries.map(([key, value]) => [key, withoutWords(value)]));
}

function makeCompose(file: string): void {
  const schema: unknown = JSON.parse(readFileSync(file, 'utf8'));
  const target = join(SCHEMAS, 'compose-spec.json');
  writeFileSync(target, `${JSON.stringify(withoutWords(schema))}\n`);
}

const [modules, compose] = process.argv.slice(2);
if (modules === undefined) {
  console.error('node deploy/make-schemas.ts "$(go env GOMODCACHE)"');
  process.exit(2);
}
mkdirSync(SCHEMAS, { recursive: true });
makeKubernetes(modules);
makeCustom(modules);
if (compose !== undefined) makeCompose(compose);
