/**
 * Holds the files of deploy/ to all that can be known without a cluster: our own checks (checks.ts), and the tools of the trade as far as they
 * are installed: kubeconform for the manifests, promtool for rules, alerts and queries, hadolint for the image.
 *
 *   node deploy/validate.ts [--tools FOLDER] [--require-tools]
 *
 * --tools is looked in before PATH; --require-tools makes a missing one an error. Where they come from is in README.md.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Metrics } from '../src/server/metrics.ts';
import {
  boardComplaints,
  commandLines,
  composeComplaints,
  flagComplaints,
  metricComplaints,
  queries,
  referenceComplaints,
  safetyComplaints,
  schemaComplaints,
} from './checks.ts';
import { DEPLOY, readManifests, readYaml, SCHEMAS } from './manifests.ts';

/** What came of one check. `skipped`: the tool is not there. */
export interface CheckResult {
  readonly name: string;
  readonly state: 'passed' | 'failed' | 'skipped';
  readonly complaints: readonly string[];
}

const LAUNCHER = fileURLToPath(new URL('../bin/hasten.js', import.meta.url));

const helpPages = new Map<string, string>();

/** The help page of a command, asked for once. */
async function helpOf(command: string): Promise<string> {
  const args = [LAUNCHER, command, '--help'];
  const page = helpPages.get(command) ?? spawnSync(process.execPath, args).stdout.toString();
  helpPages.set(command, page);
  return page;
}

export async function ownChecks(): Promise<CheckResult[]> {
  const manifests = readManifests();
  const [compose] = readYaml('docker-compose.yaml');
  const metrics = (await new Metrics().render()).text;
  const checks: Readonly<Record<string, readonly string[]>> = {
    'schemas of the manifests': schemaComplaints(manifests),
    'schema of the compose file': composeComplaints(compose),
    'what manifests name exists': referenceComplaints(manifests),
    'containers are confined, probed and bounded': safetyComplaints(manifests),
    'flags are known to hasten': await flagComplaints(commandLines(manifests, compose), helpOf),
    'the board is whole': boardComplaints(),
    'figures are put out by hasten': metricComplaints(metrics),
  };
  return Object.entries(checks).map(([name, complaints]) => ({
    ...{ name, complaints },
    state: complaints.length === 0 ? 'passed' : 'failed',
  }));
}

export interface ToolCheck {
  readonly tool: string;
  readonly name: string;
  readonly args: readonly string[];
}

/** @param scratch a folder for files that a tool reads and deploy/ does not hold */
export function toolChecks(scratch: string): ToolCheck[] {
  const below = (path: string): string => join(DEPLOY, path);
  const rules = join(scratch, 'queries.yaml');
  const records = queries().map((expr, index) => ({ record: `query:${index}`, expr }));
  writeFileSync(rules, JSON.stringify({ groups: [{ name: 'queries', rules: records }] }));
  // Some builds of promtool know no service discovery but static: its relabelling is checked with a target in its place.
  const cluster = join(scratch, 'kubernetes.yaml');
  const discovery = / {4}kubernetes_sd_configs:\n(?: {6}.*\n)+/;
  const text = readFileSync(below('prometheus/kubernetes.yaml'), 'utf8');
  writeFileSync(
    cluster,
    text
      .replace(discovery, '    static_configs:\n      - targets: [a:1]\n')
      .replace('rules.yaml', below('prometheus/rules.yaml')),
  );
  const schemas = `${SCHEMAS}{{.ResourceKind}}{{.KindSuffix}}.json`;
  const folders = ['kubernetes', 'knative', 'istio'].map(below);
  return [
    {
      ...{ tool: 'kubeconform', name: 'kubeconform: manifests' },
      args: ['-strict', '-skip', 'Kustomization', '-schema-location', schemas, ...folders],
    },
    {
      ...{ tool: 'promtool', name: 'promtool: rules' },
      args: ['check', 'rules', below('prometheus/rules.yaml')],
    },
    {
      ...{ tool: 'promtool', name: 'promtool: alerts fire when they are to, and only then' },
      args: ['test', 'rules', below('prometheus/rules.test.yaml')],
    },
    {
      ...{ tool: 'promtool', name: 'promtool: configuration' },
      args: ['check', 'config', below('prometheus/prometheus.yaml'), cluster],
    },
    {
      ...{ tool: 'promtool', name: 'promtool: queries of board and autoscaler' },
      args: ['check', 'rules', rules],
    },
    {
      ...{ tool: 'hadolint', name: 'hadolint: image' },
      args: [below('Dockerfile')],
    },
  ];
}

/** @param folder looked in before PATH */
export function findTool(tool: string, folder?: string): string | undefined {
  const folders = [...(folder ? [folder] : []), ...(process.env.PATH ?? '').split(delimiter)];
  return folders.map((one) => join(one, tool)).find((path) => existsSync(path));
}

export function runTool({ tool, name, args }: ToolCheck, folder?: string): CheckResult {
  const program = findTool(tool, folder);
  if (program === undefined) {
    return { name, state: 'skipped', complaints: [`${tool} is not installed`] };
  }
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8' });
  if (status === 0) return { name, state: 'passed', complaints: [] };
  return { name, state: 'failed', complaints: [`${stdout}${stderr}`.trim()] };
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { tools: { type: 'string' }, 'require-tools': { type: 'boolean', default: false } },
  });
  const scratch = mkdtempSync(join(tmpdir(), 'hasten-deploy-'));
  try {
    const results = [
      ...(await ownChecks()),
      ...toolChecks(scratch).map((check) => runTool(check, values.tools)),
    ];
    for (const { name, state, complaints } of results) {
      console.log(`${state}: ${name}`);
      for (const complaint of complaints) console.log(`  ${complaint.replaceAll('\n', '\n  ')}`);
    }
    const isBad = (state: CheckResult['state']): boolean =>
      state === 'failed' || (state === 'skipped' && values['require-tools']);
    if (results.some(({ state }) => isBad(state))) process.exitCode = 1;
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

if (import.meta.main) await main();
