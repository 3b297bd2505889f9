/**
 * Twice as much work as a server takes, with clients of every bad habit among the good ones, for as long as one likes. Every request is
 * counted, and the memory of the server and of its engine is watched.
 *
 *   node test/soak.ts [--seconds 600]
 */
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { end, type Serving, serve } from './serve-process.ts';

/** Answers that the server of the soak runs and lets wait. */
const CAPACITY = { running: 8, waiting: 8 };
const NUM_CLIENTS = 2 * (CAPACITY.running + CAPACITY.waiting);
/** From the middle of a long soak to its end: until then heaps still grow to the size at which V8 collects them. */
const MAX_GROWTH_BYTES = 40e6;
const HABITS = ['whole', 'streamed', 'vanishes', 'malformed', 'never-reads', 'chat'] as const;
type Habit = (typeof HABITS)[number];

export interface SoakCounts {
  sent: number;
  finished: number;
  /** 429, with `Retry-After`. */
  refused: number;
  /** 400, deserved. */
  rejected: number;
  /** Clients that left before the end, as they wanted. */
  left: number;
  /** All else; must be none. */
  failed: number;
}

export interface SoakResult {
  readonly counts: SoakCounts;
  /** Of server and engine together at half of the time, when pools are filled, and at the end. */
  readonly settledBytes: number;
  readonly finalBytes: number;
  readonly failures: readonly string[];
  /** Once every client has gone; must be none. */
  readonly numLeftRunning: number;
}

export function startSoakServer(): Promise<Serving> {
  return serve([
    ...['tiny', '--log-level', 'warn', '--slow-reader-timeout', '2'],
    ...['--max-num-seqs', String(CAPACITY.running), '--max-queue', String(CAPACITY.waiting)],
  ]);
}

/** @param enginePid of the server's child */
export async function soak(
  { url, child }: Serving,
  enginePid: number,
  seconds: number,
): Promise<SoakResult> {
  const counts: SoakCounts = { sent: 0, finished: 0, refused: 0, rejected: 0, left: 0, failed: 0 };
  const failures: string[] = [];
  const untilMs = performance.now() + 1000 * seconds;
  const memory = (): number => residentBytes(child.pid ?? 0) + residentBytes(enginePid);
  const client = async (index: number): Promise<void> => {
    for (let i = 0; performance.now() < untilMs; i++) {
      const habit = HABITS[(index + i) % HABITS.length]!;
      counts.sent++;
      try {
        const outcome = await behave(habit, url, index * 1000 + i);
        counts[outcome]++;
        // As a good client does, though not for as long as it was told.
        if (outcome === 'refused') await setTimeout(50);
      } catch (error) {
        counts.failed++;
        failures.push(`${habit}: ${(error as Error).stack}`);
      }
    }
  };
  const clients = Array.from({ length: NUM_CLIENTS }, (_, index) => client(index));
  await setTimeout((1000 * seconds) / 2);
  const settledBytes = memory();
  await Promise.all(clients);
  const finalBytes = memory();
  return { counts, settledBytes, finalBytes, failures, numLeftRunning: await runningAfter(url) };
}

type Outcome = Exclude<keyof SoakCounts, 'sent' | 'failed'>;

async function behave(habit: Habit, url: string, seed: number): Promise<Outcome> {
  const maxTokens = 5 + (seed % 40);
  const prompt = `Prompt ${seed % 50}: ${'x'.repeat(seed % 60)}`;
  const base = { prompt, max_tokens: maxTokens, ignore_eos: true, seed };
  switch (habit) {
    case 'whole':
      return await outcomeOf(await post(url, '/v1/completions', base));
    case 'chat': {
      const messages = [{ role: 'user', content: prompt }];
      return await outcomeOf(
        await post(url, '/v1/chat/completions', { messages, max_tokens: maxTokens }),
      );
    }
    case 'streamed': {
      const response = await post(url, '/v1/completions', { ...base, stream: true });
      if (response.status !== 200) return await outcomeOf(response);
      const text = await response.text();
      if (!text.endsWith('data: [DONE]\n\n'))
        throw new Error(`the stream ended with ${text.slice(-200)}`);
      return 'finished';
    }
    case 'vanishes': {
      const controller = new AbortController();
      const response = await post(
        url,
        '/v1/completions',
        { ...base, max_tokens: 150, stream: true },
        controller.signal,
      );
      if (response.status !== 200) return await outcomeOf(response);
      await response.body?.getReader().read();
      controller.abort();
      return 'left';
    }
    case 'malformed':
      return await outcomeOf(await post(url, '/v1/completions', `{"prompt": ${seed}`));
    case 'never-reads':
      await neverRead(url, { ...base, stream: true, n: 4 });
      return 'left';
    default:
      return habit satisfies never;
  }
}

function post(url: string, path: string, body: unknown, signal?: AbortSignal): Promise<Response> {
  return fetch(url + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: typeof body === 'string' ? body : JSON.stringify(body),
    ...(signal && { signal }),
  });
}

async function outcomeOf(response: Response): Promise<Outcome> {
  const text = await response.text();
  if (response.status === 200) return 'finished';
  if (response.status === 429 && Number(response.headers.get('retry-after')) >= 1) return 'refused';
  if (response.status === 400) return 'rejected';
  throw new Error(`status ${response.status}: ${text}`);
}

/** Sends a request, reads nothing of the answer, and leaves after a while. */
async function neverRead(url: string, body: object): Promise<void> {
  const socket = connect(Number(new URL(url).port), '127.0.0.1');
  socket.on('error', () => {});
  socket.pause();
  const text = JSON.stringify(body);
  socket.write(
    'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n' +
      `Content-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`,
  );
  await setTimeout(300);
  socket.destroy();
}

async function runningAfter(url: string): Promise<number> {
  let numRunning = Number.NaN;
  for (let i = 0; i < 100; i++) {
    const metrics = await (await fetch(`${url}/metrics`)).text();
    const sum = (name: string): number =>
      Number(new RegExp(`^hasten:${name}\\{.*\\} (\\S+)$`, 'm').exec(metrics)?.[1]);
    numRunning = sum('num_requests_running') + sum('num_requests_waiting');
    if (numRunning === 0) break;
    await setTimeout(50);
  }
  return numRunning;
}

function residentBytes(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({ options: { seconds: { type: 'string', default: '600' } } });
  const serving = await startSoakServer();
  try {
    const result = await soak(serving, enginePidOf(serving), Number(values.seconds));
    console.log(JSON.stringify(result, null, 2));
    const { counts, numLeftRunning, settledBytes, finalBytes } = result;
    const isFlat = finalBytes - settledBytes < MAX_GROWTH_BYTES;
    process.exitCode = counts.failed > 0 || numLeftRunning > 0 || !isFlat ? 1 : 0;
  } finally {
    await end(serving.child, 'SIGTERM');
  }
}

/** The server's only child. */
export function enginePidOf({ child }: Serving): number {
  const children = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8');
  return Number(children.trim().split(' ')[0]);
}
