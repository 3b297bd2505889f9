/**
 * One load, made by `hasten bench serve` in a process of its own, so that every server meets the same client. Knows its flags and the fields of
 * its JSON that comparisons use.
 */
import { join } from 'node:path';
import { lastJson, runChild } from '../lib/child.ts';
import { REPOSITORY } from '../lib/paths.ts';

export interface ServeLoad {
  readonly url: string;
  readonly promptTokens: number;
  readonly sharedTokens: number;
  readonly outputTokens: number;
  readonly numRequests: number;
  readonly seed: number;
  /** Clients of a closed loop, or requests a second of an open one. */
  readonly clients: number | null;
  readonly requestRate: number | null;
  /** Further flags. */
  readonly extra?: readonly string[];
}

/** Fields of the JSON of `hasten bench serve`; times in milliseconds. */
export interface LoadFigures {
  readonly sent: number;
  readonly completed: number;
  readonly refused: number;
  readonly failed: number;
  readonly duration: number;
  readonly total_input_tokens: number;
  readonly total_output_tokens: number;
  readonly total_cached_tokens: number;
  readonly request_throughput: number;
  readonly output_throughput: number;
  readonly mean_ttft_ms: number;
  readonly p50_ttft_ms: number;
  readonly p99_ttft_ms: number;
  readonly p50_itl_ms: number;
  readonly p99_itl_ms: number;
  readonly mean_e2el_ms: number;
  readonly p50_e2el_ms: number;
  readonly p99_e2el_ms: number;
  readonly client_cpu_share: number;
  readonly classes: Readonly<Record<string, { readonly p99_ttft_ms: number }>>;
}

/** @throws {Error} if a request failed or was refused, or tokens were counted that were not asked for */
export async function runServeLoad(load: ServeLoad): Promise<LoadFigures> {
  const pacing =
    load.requestRate === null
      ? ['--max-concurrency', `${load.clients}`]
      : ['--request-rate', `${load.requestRate}`];
  const args = [
    ...['--disable-warning=ExperimentalWarning', join(REPOSITORY, 'bin', 'hasten.js')],
    ...['bench', 'serve', '--json', '--base-url', load.url, '--endpoint', 'completions'],
    ...[
      '--random-input-len',
      `${load.promptTokens}`,
      '--random-output-len',
      `${load.outputTokens}`,
    ],
    ...['--shared-prefix-tokens', `${load.sharedTokens}`, '--num-prompts', `${load.numRequests}`],
    ...['--seed', `${load.seed}`, '--timeout', '1200', '--stall-timeout', '1200'],
    ...pacing,
    ...(load.extra ?? []),
  ];
  const figures = lastJson(await runChild(process.execPath, args)) as LoadFigures;
  assertAllFinished(figures, load);
  return figures;
}

/** @throws {Error} if a request failed or was refused, or tokens were counted that were not asked for */
export function assertAllFinished(
  { completed, sent, total_input_tokens: input, total_output_tokens: output }: LoadFigures,
  { numRequests, promptTokens, outputTokens }: Omit<ServeLoad, 'url'>,
): void {
  if (completed !== sent || sent !== numRequests) {
    throw new Error(`${completed} of ${sent} requests finished, ${numRequests} were to be sent`);
  }
  if (input !== completed * promptTokens || output !== completed * outputTokens) {
    throw new Error(
      `${input} tokens in and ${output} out for ${completed} requests, expected ${promptTokens} and ${outputTokens} each`,
    );
  }
}
