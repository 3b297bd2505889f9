/**
 * The servers that are compared: how each is started for a number of streams, when it is ready, how it ends, and how a load is put on it. Knows
 * nothing of which loads there are.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { REPOSITORY } from '../lib/paths.ts';
import { type OpenVinoLoad, openVinoVersion, runOpenVino } from '../peers/openvino.ts';
import { assertAllFinished, type LoadFigures, runServeLoad, type ServeLoad } from './load-child.ts';

export interface ServerJob {
  readonly modelPath: string;
  readonly threads: number;
  /** Requests that it is to run at once. */
  readonly streams: number;
  /** Tokens that each may have, prompt and answer. */
  readonly contextTokens: number;
}

export interface ComparedPeer {
  /** Peers of one name are settings of the same thing; the best one stands for it. */
  readonly name: string;
  readonly setting: string;
  readonly version: string;
  /** Whether this setting differs from the others for so many streams. */
  isDistinct(streams: number): boolean;
  /** A load on a fresh one. */
  measure(job: ServerJob, load: Omit<ServeLoad, 'url'>): Promise<MeasuredLoad>;
}

export interface MeasuredLoad {
  readonly figures: LoadFigures;
  /** The largest resident set, 0 where it cannot be known. */
  readonly peakMemoryBytes: number;
}

/** A peer that is asked over HTTP. */
export interface ComparedServer extends ComparedPeer {
  start(job: ServerJob): Promise<RunningServer>;
}

export interface RunningServer extends AsyncDisposable {
  readonly url: string;
  /** The largest resident set so far, 0 where it cannot be known. */
  peakMemoryBytes(): number;
}

/** Measures a server by what `hasten bench serve` sees of it. */
export function overHttp(server: Omit<ComparedServer, 'measure'>): ComparedServer {
  return {
    ...server,
    async measure(job, load) {
      await using running = await server.start(job);
      const figures = await runServeLoad({ ...load, url: running.url });
      return { figures, peakMemoryBytes: running.peakMemoryBytes() };
    },
  };
}

const READY_TIMEOUT_MS = 120_000;
const STOP_TIMEOUT_MS = 10_000;

/** @param extra further flags of `hasten serve`, which take precedence */
export function hastenServer(version: string, extra: readonly string[] = []): ComparedServer {
  return overHttp({
    ...{ name: 'hasten', setting: extra.join(' '), version },
    isDistinct: () => true,
    start: (job) =>
      startServer(
        process.execPath,
        [
          ...['--disable-warning=ExperimentalWarning', join(REPOSITORY, 'bin', 'hasten.js')],
          ...['serve', job.modelPath, '--offline', '--log-level', 'error'],
          ...['--threads', `${job.threads}`, '--max-num-seqs', `${Math.max(16, job.streams)}`],
          ...['--max-model-len', `${job.contextTokens}`, ...extra],
        ],
        '/readyz',
      ),
  });
}

export interface LlamaSetting {
  readonly flashAttention: boolean;
  /** Slots at most; further requests wait in its queue. */
  readonly maxSlots: number;
}

export const LLAMA_SETTINGS: readonly LlamaSetting[] = [
  { flashAttention: true, maxSlots: Number.POSITIVE_INFINITY },
  { flashAttention: false, maxSlots: Number.POSITIVE_INFINITY },
  { flashAttention: true, maxSlots: 16 },
];

/** @param program path of a llama-server */
export function llamaServer(program: string, setting: LlamaSetting): ComparedServer {
  const { flashAttention, maxSlots } = setting;
  const slots = (streams: number): number => Math.min(streams, maxSlots);
  return overHttp({
    name: 'llama-server',
    setting: `fa ${flashAttention ? 'on' : 'off'}${Number.isFinite(maxSlots) ? `, ≤ ${maxSlots} slots` : ''}`,
    version: llamaVersion(program),
    isDistinct: (streams) => !Number.isFinite(maxSlots) || streams > maxSlots,
    start: ({ modelPath, threads, streams, contextTokens }) =>
      startServer(
        program,
        [
          ...['-m', modelPath, '-t', `${threads}`, '-tb', `${threads}`],
          ...['-np', `${slots(streams)}`, '-c', `${slots(streams) * contextTokens}`],
          ...['-fa', flashAttention ? 'on' : 'off', '--host', '127.0.0.1', '--offline'],
        ],
        '/health',
      ),
  });
}

/** A server that someone else started, such as vLLM's; it is asked for whatever model it serves first. */
export function remoteServer(name: string, url: string): ComparedServer {
  return overHttp({
    ...{ name, setting: '', version: 'as started by hand' },
    isDistinct: () => true,
    start: async () => ({ url, peakMemoryBytes: () => 0, async [Symbol.asyncDispose]() {} }),
  });
}

/** Tokens of one step, at most: OpenVINO's default, and more. */
export const OPENVINO_SETTINGS: readonly number[] = [256, 1024];

/**
 * OpenVINO GenAI's continuous batching, in one process with the load: there is no server of its kind to start, and no HTTP is in its favour.
 * @param python one that has it
 * @param model  a folder in its format; undefined: the GGUF file
 * @throws {Error} if that Python has it not
 */
export function openVinoPeer(
  python: string,
  model: string | undefined,
  vocabSize: number,
  maxBatchedTokens: number,
): ComparedPeer {
  return {
    name: 'OpenVINO GenAI',
    setting: `≤ ${maxBatchedTokens} tokens a step`,
    version: openVinoVersion(python),
    isDistinct: () => true,
    async measure({ modelPath, threads, streams }, { extra: _, ...load }) {
      const question: OpenVinoLoad = {
        ...load,
        ...{ model: model ?? modelPath, threads, streams, vocabSize, maxBatchedTokens },
        cacheGigabytes: 2,
      };
      const answer = await runOpenVino(python, 'serve', question);
      const { peakMemoryBytes, ...figures } = answer as LoadFigures & { peakMemoryBytes: number };
      assertAllFinished(figures, load);
      return { figures, peakMemoryBytes };
    },
  };
}

function llamaVersion(program: string): string {
  const { stdout, stderr } = spawnSync(program, ['--version'], { encoding: 'utf8' });
  const line = `${stdout}${stderr}`.split('\n').find((text) => text.startsWith('version:'));
  return line === undefined ? 'built locally, version unknown' : `built locally, ${line}`;
}

/** A benchmark that is ended from outside exits, and so ends its servers. */
export function exitOnSignals(): void {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(130));
}

/** @throws {Error} if it ends, or is not ready in time; the last lines of its output are in the message */
async function startServer(
  program: string,
  args: readonly string[],
  readyPath: string,
): Promise<RunningServer> {
  const port = await freePort();
  const child = spawn(program, [...args, '--port', `${port}`], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const killAtExit = (): void => void child.kill('SIGKILL');
  process.once('exit', killAtExit);
  child.once('exit', () => process.off('exit', killAtExit));
  const output: string[] = [];
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (part: Buffer) => {
      output.push(part.toString());
      if (output.length > 100) output.shift();
    });
  }
  const url = `http://127.0.0.1:${port}`;
  const deadline = performance.now() + READY_TIMEOUT_MS;
  while (!(await answers(`${url}${readyPath}`))) {
    const hasEnded = child.exitCode !== null || child.signalCode !== null;
    if (hasEnded || performance.now() > deadline) {
      await stop(child);
      const why = hasEnded ? 'ended' : `was not ready after ${READY_TIMEOUT_MS / 1000} s`;
      throw new Error(`${program} ${why}: ${output.join('').split('\n').slice(-8).join('\n')}`);
    }
    await sleep(100);
  }
  return {
    url,
    peakMemoryBytes: () => peakMemoryOf(child.pid),
    [Symbol.asyncDispose]: () => stop(child),
  };
}

async function answers(url: string): Promise<boolean> {
  try {
    return (await fetch(url, { signal: AbortSignal.timeout(2000) })).ok;
  } catch {
    return false;
  }
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, 'close');
  child.kill('SIGTERM');
  const killer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
  await ended;
  clearTimeout(killer);
}

/** Of the process and those below it: hasten serves from a child of its own. */
function peakMemoryOf(pid: number | undefined): number {
  if (pid === undefined) return 0;
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    const kilobytes = Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0);
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
    const below = children.split(' ').filter((text) => text !== '');
    return below.reduce((sum, child) => sum + peakMemoryOf(Number(child)), kilobytes * 1024);
  } catch {
    return 0;
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}
