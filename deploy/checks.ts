/**
 * What can be said about the files of deploy/ without a cluster: their schemas, whether what they name exists (in each other and in hasten
 * itself), and whether they ask for no more rights than they need. Each check returns its complaints; none is good.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv } from 'ajv';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { DEPLOY, type Manifest, readYaml, SCHEMAS } from './manifests.ts';

type Fields = Readonly<Record<string, unknown>>;

function fieldsOf(value: unknown): Fields {
  return typeof value === 'object' && value !== null ? (value as Fields) : {};
}

function listOf(value: unknown): Fields[] {
  return Array.isArray(value) ? value.map(fieldsOf) : [];
}

/** What is at `path`; undefined where something on the way is not there. */
function at(value: unknown, ...path: readonly string[]): unknown {
  return path.reduce<unknown>((inner, key) => fieldsOf(inner)[key], value);
}

/** Each manifest against the strict schema of its kind. */
export function schemaComplaints(manifests: readonly Manifest[]): string[] {
  const ajv = new Ajv({ strict: false, allErrors: true, validateFormats: false });
  return manifests.flatMap(({ file, ...manifest }) => {
    const [group, version] = manifest.apiVersion.includes('/')
      ? manifest.apiVersion.split('/')
      : ['', manifest.apiVersion];
    const prefix = group === '' ? '' : `${group!.split('.')[0]}-`;
    const name = `${manifest.kind.toLowerCase()}-${prefix}${version}.json`;
    if (!existsSync(join(SCHEMAS, name))) return [`${file}: no schema ${name}`];
    const validate = ajv.compile(JSON.parse(readFileSync(join(SCHEMAS, name), 'utf8')) as object);
    if (validate(manifest)) return [];
    return (validate.errors ?? []).map(({ instancePath, message, params }) => {
      return `${file}: ${instancePath} ${message} ${JSON.stringify(params)}`;
    });
  });
}

export function composeComplaints(compose: unknown): string[] {
  const ajv = new Ajv2020({ strict: false, allErrors: true, validateFormats: false });
  const schema = JSON.parse(readFileSync(join(SCHEMAS, 'compose-spec.json'), 'utf8')) as object;
  const validate = ajv.compile(schema);
  if (validate(compose)) return [];
  return (validate.errors ?? []).map(
    ({ instancePath, message }) => `docker-compose.yaml: ${instancePath} ${message}`,
  );
}

/** The template of the pods that a manifest makes; undefined for those that make none. */
function podOf(manifest: Manifest): Fields | undefined {
  const pod = at(manifest, 'spec', 'template', 'spec');
  return pod === undefined ? undefined : fieldsOf(pod);
}

function containersOf(pod: Fields): Fields[] {
  return [...listOf(pod.initContainers), ...listOf(pod.containers)];
}

/** What one manifest names has to be in another: claims, secrets, accounts, selectors, ports, the kustomization's files. */
export function referenceComplaints(manifests: readonly Manifest[]): string[] {
  const named = (kind: string): Set<unknown> =>
    new Set(manifests.filter((one) => one.kind === kind).map((one) => one.metadata.name));
  const complaints: string[] = [];
  const expect = (isSo: boolean, complaint: string): void => {
    if (!isSo) complaints.push(complaint);
  };
  const deployment = manifests.find(({ kind }) => kind === 'Deployment');
  const podLabels = fieldsOf(at(deployment, 'spec', 'template', 'metadata', 'labels'));
  for (const manifest of manifests) {
    const { file, kind, spec } = manifest;
    const pod = podOf(manifest);
    if (pod !== undefined) {
      const account = pod.serviceAccountName;
      expect(
        account === undefined || named('ServiceAccount').has(account),
        `${file}: no ServiceAccount "${account}"`,
      );
      const volumes = listOf(pod.volumes);
      for (const volume of volumes) {
        const claim = at(volume, 'persistentVolumeClaim', 'claimName');
        const secret = at(volume, 'secret', 'secretName');
        expect(
          claim === undefined || named('PersistentVolumeClaim').has(claim),
          `${file}: no PersistentVolumeClaim "${claim}"`,
        );
        expect(
          secret === undefined || named('Secret').has(secret),
          `${file}: no Secret "${secret}"`,
        );
      }
      const names = new Set(volumes.map(({ name }) => name));
      for (const container of containersOf(pod)) {
        for (const { name } of listOf(container.volumeMounts)) {
          expect(names.has(name), `${file}: no volume "${name}"`);
        }
      }
    }
    const selector = at(spec, 'selector', 'matchLabels') ?? at(spec, 'podSelector', 'matchLabels');
    const plain = kind === 'Service' && pod === undefined ? at(spec, 'selector') : undefined;
    for (const [label, value] of Object.entries(fieldsOf(selector ?? plain))) {
      expect(podLabels[label] === value, `${file}: no pod is labelled ${label}=${value}`);
    }
    if (kind === 'HorizontalPodAutoscaler') {
      const target = at(spec, 'scaleTargetRef', 'name');
      expect(named('Deployment').has(target), `${file}: no Deployment "${target}"`);
    }
  }
  const kustomization = readYaml('kubernetes/kustomization.yaml')[0];
  const files = manifests.filter(({ file }) => file.startsWith('kubernetes/'));
  const listed = new Set(at(kustomization, 'resources') as string[]);
  for (const { file } of files) {
    const name = file.slice('kubernetes/'.length);
    expect(listed.delete(name), `kubernetes/kustomization.yaml does not list ${name}`);
  }
  for (const name of listed) complaints.push(`kubernetes/kustomization.yaml: no file ${name}`);
  return complaints;
}

/** Every container is confined, probed and bounded. */
export function safetyComplaints(manifests: readonly Manifest[]): string[] {
  return manifests.flatMap((manifest) => {
    const pod = podOf(manifest);
    if (pod === undefined) return [];
    const complaints = containersOf(pod).flatMap((container) => {
      const context = { ...fieldsOf(pod.securityContext), ...fieldsOf(container.securityContext) };
      const rules: readonly (readonly [holds: boolean, complaint: string])[] = [
        [context.runAsNonRoot === true, 'may run as root'],
        [context.allowPrivilegeEscalation === false, 'may gain privileges'],
        [context.readOnlyRootFilesystem === true, 'may write anywhere'],
        [JSON.stringify(at(context, 'capabilities', 'drop')) === '["ALL"]', 'keeps capabilities'],
        [at(context, 'seccompProfile', 'type') === 'RuntimeDefault', 'has no seccomp profile'],
        [at(container, 'resources', 'limits', 'memory') !== undefined, 'has no memory limit'],
      ];
      return rules
        .filter(([holds]) => !holds)
        .map(([, text]) => `container ${container.name} ${text}`);
    });
    for (const container of listOf(pod.containers)) {
      for (const probe of ['startupProbe', 'readinessProbe', 'livenessProbe']) {
        const path = at(container, probe, 'httpGet', 'path');
        const expected = probe === 'livenessProbe' ? '/healthz' : '/readyz';
        if (path !== expected) complaints.push(`${probe} asks ${path}, expected ${expected}`);
      }
    }
    return complaints.map((complaint) => `${manifest.file}: ${complaint}`);
  });
}

/** The command lines that are given to hasten: manifests, compose file and image. */
export function commandLines(manifests: readonly Manifest[], compose: unknown): string[][] {
  const ofPods = manifests.flatMap((manifest) => {
    const pod = podOf(manifest);
    return pod === undefined ? [] : containersOf(pod).map(({ args }) => args as string[]);
  });
  const ofCompose = at(compose, 'services', 'hasten', 'command') as string[];
  const image = readFileSync(join(DEPLOY, 'Dockerfile'), 'utf8');
  const ofImage = JSON.parse(/^CMD (\[.*\])$/m.exec(image)?.[1] ?? '[]') as string[];
  return [...ofPods, ofCompose, ofImage];
}

/** @param helpOf the help page of a command */
export async function flagComplaints(
  lines: readonly (readonly string[])[],
  helpOf: (command: string) => Promise<string>,
): Promise<string[]> {
  const complaints: string[] = [];
  for (const [command = '', ...args] of lines) {
    const help = await helpOf(command);
    for (const flag of args.filter((arg) => arg.startsWith('--'))) {
      const name = flag.split('=', 1)[0]!;
      const isKnown = new RegExp(`^\\s+(?:-\\w, )?${name}(?:[ =]|$)`, 'm').test(help);
      if (!isKnown) complaints.push(`hasten ${command} knows no ${name}`);
    }
  }
  return [...new Set(complaints)];
}

/** Names of series that a text in PromQL, or one that holds PromQL, asks for. */
export function seriesIn(text: string): Set<string> {
  // A name with a colon inside of a recording rule's name is no series of hasten.
  const names = text.matchAll(/(?<![\w:])(hasten:\w+|(?:process|nodejs)_\w+)/g);
  return new Set([...names].map(([, name]) => name!));
}

/** Names of series that hasten puts out, from what /metrics answers. */
export function seriesOf(metrics: string): Set<string> {
  const names = new Set<string>();
  for (const [, name, type] of metrics.matchAll(/^# TYPE (\S+) (\w+)$/gm)) {
    if (type === 'histogram')
      for (const end of ['bucket', 'sum', 'count']) names.add(`${name}_${end}`);
    else names.add(name!);
  }
  return names;
}

/** Files that ask for series, relative to deploy/. */
export const ASKING_FILES = ['prometheus/rules.yaml', 'grafana/hasten.json'];

/** @param metrics what /metrics answers */
export function metricComplaints(metrics: string): string[] {
  const known = seriesOf(metrics);
  const complaints = ASKING_FILES.flatMap((file) => {
    const asked = seriesIn(readFileSync(join(DEPLOY, file), 'utf8'));
    return [...asked]
      .filter((name) => !known.has(name))
      .map((name) => `${file}: nobody puts out ${name}`);
  });
  return [...complaints, ...autoscalerComplaints(known)];
}

/** What the autoscaler asks for, the adapter has to offer, and hasten to put out. */
function autoscalerComplaints(known: ReadonlySet<string>): string[] {
  const [adapter] = readYaml('prometheus/adapter.yaml');
  const offered = new Set(
    listOf(at(adapter, 'rules')).flatMap((rule) => {
      const { matches, as } = fieldsOf(rule.name) as { matches: string; as: string };
      const series = /__name__=~?"([^"]+)"/.exec(rule.seriesQuery as string)?.[1] ?? '$.';
      return [...known]
        .filter((name) => new RegExp(`^(?:${series})$`).test(name))
        .map((name) => name.replace(new RegExp(matches), as.replaceAll(/\$\{(\d)\}/g, '$$$1')));
    }),
  );
  const [autoscaler] = readYaml('kubernetes/hpa.yaml');
  return listOf(at(autoscaler, 'spec', 'metrics'))
    .map((metric) => at(metric, 'pods', 'metric', 'name') as string)
    .filter((name) => !offered.has(name))
    .map((name) => `kubernetes/hpa.yaml: prometheus-adapter offers no ${name}`);
}

interface BoardPanel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly gridPos: {
    readonly x: number;
    readonly y: number;
    readonly w: number;
    readonly h: number;
  };
  readonly targets?: readonly { readonly expr: string }[];
}

interface Board {
  readonly panels: readonly BoardPanel[];
  readonly templating: { readonly list: readonly { readonly name: string }[] };
}

/** Panels lie beside each other on the grid, each asks for something, and only for variables that there are. */
export function boardComplaints(
  board = JSON.parse(readFileSync(join(DEPLOY, 'grafana/hasten.json'), 'utf8')) as Board,
): string[] {
  const { panels, templating } = board;
  const complaints: string[] = [];
  const variables = new Set(templating.list.map(({ name }) => name));
  const taken = new Map<string, string>();
  for (const [index, panel] of panels.entries()) {
    const { id, type, title, gridPos, targets = [] } = panel;
    if (panels.findIndex((other) => other.id === id) !== index)
      complaints.push(`${title}: id ${id} again`);
    if (type !== 'row' && targets.length === 0) complaints.push(`${title} asks for nothing`);
    if (gridPos.x + gridPos.w > 24) complaints.push(`${title} is wider than the board`);
    for (const [, name] of JSON.stringify(targets).matchAll(/\$(\w+)/g)) {
      const isKnown = variables.has(name!) || name === '__rate_interval';
      if (!isKnown) complaints.push(`${title}: no variable $${name}`);
    }
    for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
      for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
        const other = taken.get(`${x} ${y}`);
        if (other !== undefined && other !== title) complaints.push(`${title} lies on ${other}`);
        taken.set(`${x} ${y}`, title);
      }
    }
  }
  return [...new Set(complaints)].map((complaint) => `grafana/hasten.json: ${complaint}`);
}

/** Every query of the board and of the adapter, with Grafana's and the adapter's own words replaced, so that a parser of PromQL takes it. */
export function queries(): string[] {
  const board = JSON.parse(readFileSync(join(DEPLOY, 'grafana/hasten.json'), 'utf8')) as {
    panels: { targets?: { expr: string }[] }[];
  };
  const ofBoard = board.panels.flatMap(({ targets }) => (targets ?? []).map(({ expr }) => expr));
  const [adapter] = readYaml('prometheus/adapter.yaml');
  const ofAdapter = listOf(at(adapter, 'rules')).map(({ metricsQuery }) =>
    (metricsQuery as string)
      .replaceAll('<<.Series>>', 'hasten:series')
      .replaceAll('<<.LabelMatchers>>', 'pod="p"')
      .replaceAll('<<.GroupBy>>', 'pod'),
  );
  return [...ofBoard.map((expr) => expr.replaceAll('$__rate_interval', '5m')), ...ofAdapter];
}
