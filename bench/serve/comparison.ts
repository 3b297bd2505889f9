/**
 * Runs every case on every server, rounds reversed, a fresh server each time, and keeps the medians. Knows the schedule, not how servers start
 * nor how results are shown.
 */
import { waitForQuiet, withForeignLoad } from '../lib/foreign-load.ts';
import { median } from '../lib/statistics.ts';
import { type ServeCase, streamsOf } from './cases.ts';
import type { LoadFigures } from './load-child.ts';
import type { ComparedPeer, MeasuredLoad } from './servers.ts';

export interface ServePlan {
  readonly modelPath: string;
  readonly servers: readonly ComparedPeer[];
  readonly cases: readonly ServeCase[];
  readonly threads: number;
  readonly contextTokens: number;
  readonly rounds: number;
  /** A run during which others took more than `maxLoad` of the CPU time is made again, up to `attempts` times in all. */
  readonly quiet: {
    readonly maxLoad: number;
    readonly attempts: number;
    readonly waitMs: number;
  };
}

export interface ServeRow {
  readonly case: string;
  readonly server: string;
  readonly setting: string;
  /** Of the open cases: what was offered. */
  readonly requestRate: number | null;
  /** One entry a round. */
  readonly rounds: readonly LoadFigures[];
  readonly peakMemoryBytes: number;
  /** Share of all CPU time that others took, the worst of the rounds. */
  readonly foreignLoad: number;
}

export interface FailedServeRun {
  readonly case: string;
  readonly server: string;
  readonly message: string;
}

export interface ServeResult {
  readonly rows: readonly ServeRow[];
  readonly failures: readonly FailedServeRun[];
}

export type FigureName = Exclude<keyof LoadFigures, 'classes'>;

export function medianOf(row: ServeRow, name: FigureName): number {
  return median(row.rounds.map((figures) => figures[name]));
}

export async function compareServers(
  plan: ServePlan,
  say: (text: string) => void = () => {},
): Promise<ServeResult> {
  const rows: ServeRow[] = [];
  const failures: FailedServeRun[] = [];
  for (const serveCase of plan.cases) {
    const streams = streamsOf(serveCase);
    const servers = plan.servers.filter((server) => server.isDistinct(streams));
    const requestRate = offeredRate(serveCase, rows);
    if (Number.isNaN(requestRate)) continue;
    const measured = new Map<ComparedPeer, Omit<ServeRow, 'case' | 'server' | 'setting'>>();
    for (let round = 0; round < plan.rounds; round++) {
      const order = round % 2 === 0 ? servers : servers.toReversed();
      for (const server of order) {
        say(`round ${round + 1}: ${serveCase.name}: ${server.name} ${server.setting}`);
        try {
          const run = await quietRun(plan, serveCase, server, requestRate, round);
          const before = measured.get(server);
          measured.set(server, {
            requestRate,
            rounds: [...(before?.rounds ?? []), run.figures],
            peakMemoryBytes: Math.max(before?.peakMemoryBytes ?? 0, run.peakMemoryBytes),
            foreignLoad: Math.max(before?.foreignLoad ?? 0, run.foreignLoad),
          });
          say(`  ${run.figures.request_throughput.toFixed(3)} req/s`);
        } catch (error) {
          const { message } = error as Error;
          failures.push({
            ...{ case: serveCase.name, message },
            server: `${server.name} ${server.setting}`.trim(),
          });
          say(`  failed: ${message}`);
        }
      }
    }
    for (const [{ name, setting }, figures] of measured) {
      rows.push({ case: serveCase.name, server: name, setting, ...figures });
    }
  }
  return { rows, failures };
}

/** What is offered in an open case: a share of what the best peer reached in the closed one. NaN if none did; null for a closed case. */
function offeredRate({ load }: ServeCase, rows: readonly ServeRow[]): number | null {
  if (load.kind === 'closed') return null;
  const peers = rows.filter((row) => row.case === load.of && row.server !== 'hasten');
  const best = Math.max(...peers.map((row) => medianOf(row, 'request_throughput')));
  return Number.isFinite(best) ? best * load.share : Number.NaN;
}

interface OneRun extends MeasuredLoad {
  readonly foreignLoad: number;
}

async function quietRun(
  plan: ServePlan,
  serveCase: ServeCase,
  server: ComparedPeer,
  requestRate: number | null,
  round: number,
): Promise<OneRun> {
  let best: OneRun | undefined;
  for (let attempt = 0; attempt < plan.quiet.attempts; attempt++) {
    if (plan.quiet.maxLoad < 1) await waitForQuiet(plan.quiet.maxLoad, plan.quiet.waitMs);
    const { value, foreignLoad } = await withForeignLoad(() =>
      oneRun(plan, serveCase, server, requestRate, round),
    );
    const run = { ...value, foreignLoad };
    if (best === undefined || run.foreignLoad < best.foreignLoad) best = run;
    if (!(foreignLoad > plan.quiet.maxLoad)) break;
  }
  return best!;
}

function oneRun(
  { modelPath, threads, contextTokens }: ServePlan,
  serveCase: ServeCase,
  server: ComparedPeer,
  requestRate: number | null,
  round: number,
): Promise<MeasuredLoad> {
  const streams = streamsOf(serveCase);
  const { promptTokens, sharedTokens, outputTokens, numRequests } = serveCase;
  return server.measure(
    { modelPath, threads, streams, contextTokens },
    {
      ...{ promptTokens, sharedTokens, outputTokens, numRequests },
      ...{ seed: 100 + round, clients: streams, requestRate },
    },
  );
}

/** hasten beside the best setting of each peer (by requests a second; at an offered rate by mean TTFT), case by case. */
export interface ServeDuel {
  readonly case: string;
  readonly hasten: ServeRow;
  readonly peer: ServeRow;
}

export function serveDuels(rows: readonly ServeRow[]): ServeDuel[] {
  return rows
    .filter((row) => row.server === 'hasten')
    .flatMap((hasten) => {
      const peers = rows.filter((row) => row.case === hasten.case && row.server !== 'hasten');
      return [...Map.groupBy(peers, (row) => row.server).values()].map((settings) => ({
        case: hasten.case,
        hasten,
        peer: settings.reduce((best, row) => (isBetter(row, best) ? row : best)),
      }));
    });
}

function isBetter(a: ServeRow, b: ServeRow): boolean {
  if (a.requestRate !== null) return medianOf(a, 'mean_ttft_ms') < medianOf(b, 'mean_ttft_ms');
  return medianOf(a, 'request_throughput') > medianOf(b, 'request_throughput');
}
