/**
 * Time from the start of the process to the first token: `hasten run` on a 10-token prompt, with plan cache and page cache warm. Through the
 * launcher with built code (what users start), after a rest and again, and straight from the sources; broken down against what Node alone and the program
 * alone take. Builds `dist/` first. Prints a table, then one line of JSON, and writes the section of docs/benchmarks.md.
 *
 *   node bench/start.ts --model smollm2=FILE [--runs 10] [--threads auto]
 *
 * Bound: 300 ms for SmolLM2, median, through the launcher under the pinned Node. Exits with 1 if it is broken.
 */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { shownCommand } from './lib/command.ts';
import { writeSection } from './lib/doc-section.ts';
import { waitForQuiet, withForeignLoad } from './lib/foreign-load.ts';
import { namedModels, wholeNumber } from './lib/options.ts';
import { REPOSITORY } from './lib/paths.ts';
import { median, type Summary, summarize } from './lib/statistics.ts';
import { markdownTable, percent } from './lib/table.ts';

const BOUND_MS = 300;
/** Ten ids that every vocabulary has. */
const PROMPT = [504, 357, 282, 164, 314, 260, 197, 355, 253, 122];

interface TimedRun {
  /** From spawn to the first byte on stdout; for `--json` with one token, that is the token. */
  readonly firstOutputMs: number;
  readonly exitMs: number;
  /** Most memory that was resident until the first output; mapped weights count. NaN where the system does not say. */
  readonly peakBytes: number;
  readonly stdout: string;
}

/** VmHWM of a process; see proc_pid_status(5). */
function peakMemory(pid: number): number {
  try {
    const [, kilobytes] =
      /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
    return 1024 * Number(kilobytes ?? Number.NaN);
  } catch {
    return Number.NaN;
  }
}

async function timeRun(args: readonly string[]): Promise<TimedRun> {
  const begin = performance.now();
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let firstOutputMs = Number.NaN;
  let peakBytes = Number.NaN;
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout.on('data', (part: Buffer) => {
    if (stdout.length === 0) {
      firstOutputMs = performance.now() - begin;
      peakBytes = peakMemory(child.pid!);
    }
    stdout.push(part);
  });
  child.stderr.on('data', (part: Buffer) => stderr.push(part));
  const [code] = await once(child, 'close');
  const exitMs = performance.now() - begin;
  if (code !== 0) throw new Error(`${args.join(' ')}: exit code ${code}: ${Buffer.concat(stderr)}`);
  return { firstOutputMs, exitMs, peakBytes, stdout: Buffer.concat(stdout).toString() };
}

export interface StartReport {
  readonly model: string;
  /** Milliseconds by way of starting. */
  readonly firstToken: Readonly<Record<string, Summary>>;
  /** Median milliseconds of `node -e 0`, `hasten --version`, and the prompt itself (`ttftMs`). */
  readonly nodeMs: number;
  readonly programMs: number;
  readonly promptMs: number;
  readonly fileBytes: number;
  readonly peakBytes: number;
  /** Share of all CPU time that others took meanwhile. */
  readonly foreignLoad: number;
  readonly isWithinBound: boolean;
}

const QUIET_LOAD = 0.05;
const QUIET_WAIT_MS = 10_000;

/** As `launcher`, but the first start after a second or more in which nothing ran. */
const RESTED = 'launcher, after a rest';
const LAUNCHER = join(REPOSITORY, 'bin', 'hasten.js');
const SOURCES = join(REPOSITORY, 'src', 'cli', 'main.ts');
const WAYS: Readonly<Record<string, readonly string[]>> = {
  launcher: ['--disable-warning=ExperimentalWarning', LAUNCHER],
  sources: ['--disable-warning=ExperimentalWarning', SOURCES],
};

async function measureStart(
  model: string,
  path: string,
  numRuns: number,
  threads: string,
): Promise<StartReport> {
  const run = ['run', path, '--token-ids', PROMPT.join(','), '--max-tokens', '1', '--json'].concat(
    ...['--temperature', '0', '--ignore-eos', '--offline', '--threads', threads],
  );
  const firstToken: Record<string, number[]> = {};
  const promptMs: number[] = [];
  const nodeMs: number[] = [];
  const programMs: number[] = [];
  const loads: number[] = [];
  const peaks: number[] = [];
  const round = async (isCounted: boolean): Promise<void> => {
    const rested = await timeRun([...WAYS.launcher!, ...run]);
    if (isCounted) firstToken[RESTED] = [...(firstToken[RESTED] ?? []), rested.firstOutputMs];
    // A processor that has rested, or was lent to others, takes two or three starts to come back to speed.
    for (let i = 0; i < 2; i++) await timeRun([...WAYS.launcher!, ...run]);
    const node = await timeRun(['-e', '0']);
    const program = await timeRun([...WAYS.launcher!, '--version']);
    for (const [way, start] of Object.entries(WAYS)) {
      const timed = await timeRun([...start, ...run]);
      if (!isCounted) continue;
      firstToken[way] = [...(firstToken[way] ?? []), timed.firstOutputMs];
      const { timings } = JSON.parse(timed.stdout) as { timings: { ttftMs: number } };
      if (way !== 'launcher') continue;
      promptMs.push(timings.ttftMs);
      peaks.push(timed.peakBytes);
    }
    if (!isCounted) return;
    nodeMs.push(node.exitMs);
    programMs.push(program.firstOutputMs);
  };
  for (let i = 0; i < 2; i++) await round(false); // Fills the caches.
  for (let i = 0; i < numRuns; i++) {
    await waitForQuiet(QUIET_LOAD, QUIET_WAIT_MS);
    loads.push((await withForeignLoad(() => round(true))).foreignLoad);
  }
  const summaries = Object.fromEntries(
    Object.entries(firstToken).map(([way, values]) => [way, summarize(values)]),
  );
  return {
    model,
    firstToken: summaries,
    nodeMs: median(nodeMs),
    programMs: median(programMs),
    promptMs: median(promptMs),
    fileBytes: statSync(path).size,
    peakBytes: Math.max(...peaks),
    foreignLoad: loads.reduce((a, b) => a + b, 0) / loads.length,
    isWithinBound: model !== 'smollm2' || summaries.launcher!.median < BOUND_MS,
  };
}

function formatStart(reports: readonly StartReport[], numRuns: number, command: string): string {
  const ms = (value: number): string => `${value.toFixed(0)} ms`;
  const mb = (bytes: number): string => `${(bytes / 1e6).toFixed(0)} MB`;
  const rows = reports.flatMap((report) =>
    Object.entries(report.firstToken).map(([way, times]) => [
      ...[report.model, way, ms(times.median), `${ms(times.min)} … ${ms(times.max)}`],
      ...[ms(report.nodeMs), ms(Math.max(0, report.programMs - report.nodeMs))],
      ms(Math.max(0, times.median - report.programMs - report.promptMs)),
      ...[ms(report.promptMs), percent(report.foreignLoad)],
      ...[mb(report.fileBytes), mb(report.peakBytes)],
    ]),
  );
  const verdicts = reports
    .filter((report) => report.model === 'smollm2')
    .map((report) => {
      const { median: middle } = report.firstToken.launcher!;
      return `- ${report.model}: ${ms(middle)} (bound ${BOUND_MS} ms): ${report.isWithinBound ? 'within' : '**missed**'}`;
    });
  return [
    `\`${command}\``,
    `From spawn to the first token of a 10-token prompt, medians of ${numRuns} runs, caches warm. "Node" is \`node -e 0\`; "program" is what \`hasten --version\` takes beyond it; "prompt" is the time from submission to the token; "model" is the rest: opening, planning, mapping, emitting code, starting threads. "Others" is the share of all CPU time that other processes took meanwhile. "Peak memory" is what was resident until the token, mapped weights and KV cache included.`,
    markdownTable(
      [
        'model',
        'started by',
        'first token',
        'range',
        'Node',
        'program',
        'model',
        'prompt',
        'others',
        'file',
        'peak memory',
      ],
      rows,
    ),
    verdicts.join('\n'),
  ].join('\n\n');
}

const { values: options } = parseArgs({
  options: {
    model: { type: 'string', multiple: true, default: [] },
    runs: { type: 'string', default: '10' },
    threads: { type: 'string', default: 'auto' },
    'no-doc': { type: 'boolean', default: false },
  },
});
const models = namedModels(options.model);
const numRuns = wholeNumber('runs', options.runs, 1);
execFileSync(process.execPath, [join(REPOSITORY, 'scripts', 'build.ts'), '--no-types'], {
  stdio: 'inherit',
});
const reports: StartReport[] = [];
for (const { name, path } of models) {
  reports.push(await measureStart(name, path, numRuns, options.threads));
}
const shown = formatStart(reports, numRuns, shownCommand('bench/start.ts'));
console.log(shown);
if (!options['no-doc']) writeSection('start', shown);
console.log(JSON.stringify(reports));
process.exitCode = reports.every((report) => report.isWithinBound) ? 0 : 1;
