/**
 * Makes hasten.json, the Grafana board, from the list of panels below: what each shows is in one place, and Grafana's own layout fields are not
 * written by hand. Knows Grafana's dashboard format and the names of hasten's figures.
 *
 *   node deploy/grafana/make-dashboard.ts
 */
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

type Unit = 'none' | 's' | 'percentunit' | 'reqps' | 'bytes' | 'short' | 'tok/s' | 'cps';

interface Query {
  readonly expr: string;
  readonly legend: string;
}

interface Panel {
  readonly title: string;
  readonly description: string;
  readonly kind: 'timeseries' | 'stat' | 'heatmap' | 'bargauge';
  readonly unit: Unit;
  readonly queries: readonly Query[];
  /** Of 24 columns. */
  readonly width: number;
  readonly height?: number;
  readonly max?: number;
  readonly isStacked?: boolean;
}

interface Row {
  readonly title: string;
  readonly panels: readonly Panel[];
}

/** In braces after every name: what the variables at the top of the board choose. */
const CHOSEN = 'job=~"$job", instance=~"$instance"';
const CHOSEN_MODEL = `${CHOSEN}, model_name=~"$model_name"`;

function rate(name: string, labels = ''): string {
  const more = labels === '' ? '' : `, ${labels}`;
  return `rate(hasten:${name}{${CHOSEN_MODEL}${more}}[$__rate_interval])`;
}

function percentiles(name: string): Query[] {
  return [0.5, 0.9, 0.99].map((share) => ({
    expr: `histogram_quantile(${share}, sum by (le) (${rate(`${name}_bucket`)}))`,
    legend: `P${100 * share}`,
  }));
}

function mean(name: string): Query {
  return { expr: `sum(${rate(`${name}_sum`)}) / sum(${rate(`${name}_count`)})`, legend: 'mean' };
}

function gauge(name: string): Query {
  return { expr: `hasten:${name}{${CHOSEN_MODEL}}`, legend: '{{instance}}' };
}

const latency = (title: string, name: string, description: string, width = 8): Panel => ({
  ...{ title, description, kind: 'timeseries', unit: 's', width },
  queries: [...percentiles(name), mean(name)],
});

const ROWS: readonly Row[] = [
  {
    title: 'Now',
    panels: [
      {
        ...{ title: 'Output', description: 'Tokens put out per second.' },
        ...{ kind: 'stat', unit: 'tok/s', width: 4, height: 4 },
        queries: [{ expr: `sum(${rate('generation_tokens_total')})`, legend: 'output' }],
      },
      {
        ...{ title: 'Running', description: 'Requests in the running batches.' },
        ...{ kind: 'stat', unit: 'short', width: 4, height: 4 },
        queries: [{ expr: `sum(hasten:num_requests_running{${CHOSEN_MODEL}})`, legend: 'running' }],
      },
      {
        ...{ title: 'Waiting', description: 'Requests that wait to be taken in.' },
        ...{ kind: 'stat', unit: 'short', width: 4, height: 4 },
        queries: [{ expr: `sum(hasten:num_requests_waiting{${CHOSEN_MODEL}})`, legend: 'waiting' }],
      },
      {
        ...{ title: 'TTFT P99', description: 'Arrival to first token.' },
        ...{ kind: 'stat', unit: 's', width: 4, height: 4 },
        queries: percentiles('time_to_first_token_seconds').slice(2),
      },
      {
        ...{ title: 'KV cache', description: 'Blocks in use, of the fullest replica.' },
        ...{ kind: 'stat', unit: 'percentunit', width: 4, height: 4, max: 1 },
        queries: [{ expr: `max(hasten:kv_cache_usage_perc{${CHOSEN_MODEL}})`, legend: 'used' }],
      },
      {
        ...{ title: 'Prefix hits', description: 'Share of prompt tokens found in the cache.' },
        ...{ kind: 'stat', unit: 'percentunit', width: 4, height: 4, max: 1 },
        queries: [
          {
            expr: `sum(${rate('prefix_cache_hits_total')}) / sum(${rate('prefix_cache_queries_total')})`,
            legend: 'hits',
          },
        ],
      },
    ],
  },
  {
    title: 'Latency',
    panels: [
      latency('Time to first token', 'time_to_first_token_seconds', 'Arrival to first token.'),
      latency('Inter-token latency', 'inter_token_latency_seconds', 'Between two tokens.'),
      latency('End to end', 'e2e_request_latency_seconds', 'Arrival to the end of the answer.'),
      latency('Queue', 'request_queue_time_seconds', 'Arrival to the first step.'),
      latency('Prefill', 'request_prefill_time_seconds', 'First step to first token.'),
      latency(
        'Time per output token',
        'request_time_per_output_token_seconds',
        'Mean of each request, after its first token.',
      ),
      {
        ...{ title: 'Time to first token, all of them', description: 'Requests by their TTFT.' },
        ...{ kind: 'heatmap', unit: 's', width: 24 },
        queries: [
          {
            expr: `sum by (le) (increase(hasten:time_to_first_token_seconds_bucket{${CHOSEN_MODEL}}[$__rate_interval]))`,
            legend: '{{le}}',
          },
        ],
      },
    ],
  },
  {
    title: 'Work',
    panels: [
      {
        ...{ title: 'Tokens', description: 'Prompt tokens of finished requests, tokens put out.' },
        ...{ kind: 'timeseries', unit: 'tok/s', width: 8 },
        queries: [
          { expr: `sum(${rate('prompt_tokens_total')})`, legend: 'prompt' },
          { expr: `sum(${rate('generation_tokens_total')})`, legend: 'output' },
        ],
      },
      {
        ...{ title: 'Requests', description: 'Finished requests, by how they ended.' },
        ...{ kind: 'timeseries', unit: 'reqps', width: 8, isStacked: true },
        queries: [
          {
            expr: `sum by (finished_reason) (${rate('request_success_total')})`,
            legend: '{{finished_reason}}',
          },
        ],
      },
      {
        ...{ title: 'Running and waiting', description: 'Requests in the batch and in the queue.' },
        ...{ kind: 'timeseries', unit: 'short', width: 8 },
        queries: [
          { ...gauge('num_requests_running'), legend: 'running {{instance}}' },
          { ...gauge('num_requests_waiting'), legend: 'waiting {{instance}}' },
        ],
      },
      {
        ...{ title: 'Prompt length', description: 'Prompt tokens by request.' },
        ...{ kind: 'timeseries', unit: 'short', width: 12 },
        queries: [...percentiles('request_prompt_tokens'), mean('request_prompt_tokens')],
      },
      {
        ...{ title: 'Answer length', description: 'Output tokens by request.' },
        ...{ kind: 'timeseries', unit: 'short', width: 12 },
        queries: [...percentiles('request_generation_tokens'), mean('request_generation_tokens')],
      },
    ],
  },
  {
    title: 'KV cache',
    panels: [
      {
        ...{ title: 'KV cache in use', description: 'Share of the blocks, by replica.' },
        ...{ kind: 'timeseries', unit: 'percentunit', width: 8, max: 1 },
        queries: [gauge('kv_cache_usage_perc')],
      },
      {
        ...{ title: 'Prefix cache', description: 'Prompt tokens looked up, and those found.' },
        ...{ kind: 'timeseries', unit: 'tok/s', width: 8 },
        queries: [
          { expr: `sum(${rate('prefix_cache_queries_total')})`, legend: 'looked up' },
          { expr: `sum(${rate('prefix_cache_hits_total')})`, legend: 'found' },
        ],
      },
      {
        ...{ title: 'Offload', description: 'KV blocks beyond the pool: in memory and on disk.' },
        ...{ kind: 'timeseries', unit: 'short', width: 8 },
        queries: [
          { ...gauge('kv_offload_blocks'), legend: '{{instance}} {{tier}}' },
          { ...gauge('kv_cache_pinned_blocks'), legend: '{{instance}} pinned' },
        ],
      },
      {
        ...{ title: 'Preemptions', description: 'Requests that gave their blocks to others.' },
        ...{ kind: 'timeseries', unit: 'cps', width: 8 },
        queries: [
          { expr: `sum by (instance) (${rate('num_preemptions_total')})`, legend: '{{instance}}' },
        ],
      },
    ],
  },
  {
    title: 'Speculation',
    panels: [
      {
        ...{ title: 'Acceptance', description: 'Share of the drafted tokens that were accepted.' },
        ...{ kind: 'timeseries', unit: 'percentunit', width: 8, max: 1 },
        queries: [
          {
            expr: `sum(${rate('spec_decode_num_accepted_tokens_total')}) / sum(${rate('spec_decode_num_draft_tokens_total')})`,
            legend: 'accepted',
          },
        ],
      },
      {
        ...{ title: 'Tokens per draft', description: 'One of the model, and those accepted.' },
        ...{ kind: 'timeseries', unit: 'short', width: 8 },
        queries: [
          {
            expr: `1 + sum(${rate('spec_decode_num_accepted_tokens_total')}) / sum(${rate('spec_decode_num_drafts_total')})`,
            legend: 'mean length',
          },
        ],
      },
      {
        ...{ title: 'Accepted by place', description: 'Accepted tokens by their place in it.' },
        ...{ kind: 'bargauge', unit: 'tok/s', width: 8 },
        queries: [
          {
            expr: `sum by (position) (${rate('spec_decode_num_accepted_tokens_per_pos_total')})`,
            legend: '{{position}}',
          },
        ],
      },
    ],
  },
  {
    title: 'Faults',
    panels: [
      {
        ...{ title: 'Answers', description: 'HTTP answers by status.' },
        ...{ kind: 'timeseries', unit: 'reqps', width: 8, isStacked: true },
        queries: [
          { expr: `sum by (status) (${rate('http_requests_total')})`, legend: '{{status}}' },
        ],
      },
      {
        ...{ title: 'Refused', description: 'Requests that were not let in, by reason.' },
        ...{ kind: 'timeseries', unit: 'reqps', width: 8, isStacked: true },
        queries: [
          { expr: `sum by (reason) (${rate('admission_rejections_total')})`, legend: '{{reason}}' },
        ],
      },
      {
        ...{ title: 'Engine', description: '1 while it runs; how often it was started again.' },
        ...{ kind: 'timeseries', unit: 'short', width: 8 },
        queries: [
          { ...gauge('engine_up'), legend: 'up {{instance}}' },
          {
            expr: `increase(hasten:engine_restarts_total{${CHOSEN_MODEL}}[$__rate_interval])`,
            legend: 'restarts {{instance}}',
          },
        ],
      },
    ],
  },
  {
    title: 'Process',
    panels: [
      {
        ...{ title: 'CPU', description: 'Cores that the server process keeps busy.' },
        ...{ kind: 'timeseries', unit: 'short', width: 8 },
        queries: [
          {
            expr: `rate(process_cpu_seconds_total{${CHOSEN}}[$__rate_interval])`,
            legend: '{{instance}}',
          },
        ],
      },
      {
        ...{ title: 'Memory', description: 'Resident memory of the server process.' },
        ...{ kind: 'timeseries', unit: 'bytes', width: 8 },
        queries: [{ expr: `process_resident_memory_bytes{${CHOSEN}}`, legend: '{{instance}}' }],
      },
      {
        ...{ title: 'Event loop', description: 'How late the server comes to its next task.' },
        ...{ kind: 'timeseries', unit: 's', width: 8 },
        queries: [
          { expr: `nodejs_eventloop_lag_p99_seconds{${CHOSEN}}`, legend: 'P99 {{instance}}' },
        ],
      },
    ],
  },
];

const DATASOURCE = { type: 'prometheus', uid: '$datasource' };
/** Grafana has no unit of its own for tokens. */
const UNITS: Readonly<Record<Unit, string>> = {
  ...{ none: 'none', s: 's', percentunit: 'percentunit', reqps: 'reqps', bytes: 'bytes' },
  ...{ short: 'short', 'tok/s': 'suffix: tok/s', cps: 'cps' },
};

function options(panel: Panel): Record<string, unknown> {
  switch (panel.kind) {
    case 'timeseries':
      return {
        legend: { displayMode: 'list', placement: 'bottom', showLegend: true },
        tooltip: { mode: 'multi', sort: 'desc' },
      };
    case 'stat':
      return { colorMode: 'value', graphMode: 'area', reduceOptions: { calcs: ['lastNotNull'] } };
    case 'heatmap':
      return { calculate: false, color: { scheme: 'Oranges' }, yAxis: { unit: 's' } };
    case 'bargauge':
      return { orientation: 'horizontal', reduceOptions: { calcs: ['lastNotNull'] } };
    default:
      return panel.kind satisfies never;
  }
}

function panelJson(panel: Panel, id: number, x: number, y: number): Record<string, unknown> {
  const { title, description, kind, unit, width, height = 8, max, isStacked = false } = panel;
  const isPercentage = max !== undefined;
  const custom = {
    ...(kind === 'timeseries' ? { fillOpacity: isStacked ? 30 : 8, showPoints: 'never' } : {}),
    ...(isStacked ? { stacking: { mode: 'normal', group: 'A' } } : {}),
  };
  return {
    id,
    type: kind,
    title,
    description,
    datasource: DATASOURCE,
    gridPos: { x, y, w: width, h: height },
    fieldConfig: {
      defaults: { unit: UNITS[unit], min: 0, ...(isPercentage ? { max } : {}), custom },
      overrides: [],
    },
    options: options(panel),
    targets: panel.queries.map(({ expr, legend }, index) => ({
      refId: String.fromCharCode(65 + index),
      datasource: DATASOURCE,
      expr,
      legendFormat: legend,
      editorMode: 'code',
      range: true,
      ...(kind === 'heatmap' ? { format: 'heatmap' } : {}),
    })),
  };
}

function variable(name: string, label: string, query: string): Record<string, unknown> {
  // Figures of a server that still loads its model have no model_name.
  const allValue = name === 'model_name' ? '.*' : '.+';
  return {
    ...{ name, label, type: 'query', datasource: DATASOURCE, query, refresh: 2, sort: 1 },
    ...{ multi: true, includeAll: true, allValue, current: { text: 'All', value: '$__all' } },
  };
}

/** The whole board, as Grafana imports it. */
export function dashboard(): Record<string, unknown> {
  const panels: Record<string, unknown>[] = [];
  let y = 0;
  for (const { title, panels: members } of ROWS) {
    panels.push({
      ...{ id: panels.length + 1, type: 'row', title, collapsed: false, panels: [] },
      gridPos: { x: 0, y, w: 24, h: 1 },
    });
    y++;
    let x = 0;
    let height = 0;
    for (const panel of members) {
      if (x + panel.width > 24) {
        y += height;
        x = 0;
      }
      panels.push(panelJson(panel, panels.length + 1, x, y));
      x += panel.width;
      height = panel.height ?? 8;
    }
    y += height;
  }
  return {
    uid: 'hasten',
    title: 'hasten',
    description: 'Load, latency, KV cache and faults of hasten serve.',
    tags: ['hasten', 'llm'],
    schemaVersion: 41,
    version: 1,
    editable: true,
    timezone: 'browser',
    refresh: '10s',
    time: { from: 'now-1h', to: 'now' },
    graphTooltip: 1,
    templating: {
      list: [
        {
          ...{ name: 'datasource', label: 'Data source', type: 'datasource', query: 'prometheus' },
          current: { text: 'default', value: 'default' },
        },
        variable('job', 'Job', 'label_values(hasten:num_requests_running, job)'),
        variable(
          'instance',
          'Replica',
          'label_values(hasten:num_requests_running{job=~"$job"}, instance)',
        ),
        variable(
          'model_name',
          'Model',
          'label_values(hasten:num_requests_running{job=~"$job", instance=~"$instance"}, model_name)',
        ),
      ],
    },
    annotations: { list: [] },
    links: [],
    panels,
  };
}

if (import.meta.main) {
  const file = fileURLToPath(new URL('hasten.json', import.meta.url));
  writeFileSync(file, `${JSON.stringify(dashboard(), null, 2)}\n`);
}
