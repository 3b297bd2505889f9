/**
 * Sampling parameters of one request: their defaults, their ranges, and the one place that checks them. Knows nothing of HTTP field names
 * (`top_p`) or of what a model's generation_config says: callers pass such defaults in.
 */

import { RequestError } from './errors.ts';

/** Checked parameters: plain data that may cross a process border. */
export interface SamplingParams {
  /** 0 (or below `GREEDY_TEMPERATURE`) is greedy: the largest logit, the lowest id where several are equal. */
  readonly temperature: number;
  /** Draw among the k most probable tokens; 0 is off. */
  readonly topK: number;
  /** Draw among the fewest most probable tokens whose probabilities reach this sum; 1 is off. */
  readonly topP: number;
  /** Drop tokens less probable than this share of the most probable one; 0 is off. */
  readonly minP: number;
  /** Over 1 makes tokens of prompt and output less likely (Keskar et al. 2019, arXiv:1909.05858); 1 is off. */
  readonly repetitionPenalty: number;
  /** Subtracted from a logit for each time the token stands in the output. */
  readonly frequencyPenalty: number;
  /** Subtracted from a logit once if the token stands in the output. */
  readonly presencePenalty: number;
  /** `null`: the engine picks one when the request is taken in. */
  readonly seed: number | null;
  /** Token id → value added to its logit. */
  readonly logitBias: Readonly<Record<string, number>>;
  /** The text ends before the first of these. */
  readonly stop: readonly string[];
  /** Generation ends at the first of these; like an EOS id it is not part of the output. */
  readonly stopTokenIds: readonly number[];
  /** Most tokens of output; `null`: as many as fit. */
  readonly maxTokens: number | null;
  /** EOS ids neither stop nor are hidden. */
  readonly ignoreEos: boolean;
  /** `null`: none; 0: of the chosen token; N: also of the N most probable. */
  readonly logprobs: number | null;
}

/** What callers write: any subset, and one string where a list of one is meant. */
export type SamplingParamsInput = Partial<Omit<SamplingParams, 'stop'>> & {
  readonly stop?: string | readonly string[] | null;
};

/** Below this a division by the temperature says nothing more than argmax does (vLLM draws the line at the same place). */
export const GREEDY_TEMPERATURE = 1e-5;
const MAX_TOP_LOGPROBS = 20;
const MAX_STOP_STRINGS = 64;
const MAX_STOP_LENGTH = 1024;
/** Every answer of a request has these, and every token of each goes through them. */
const MAX_TOKEN_RULES = 4096;

export const DEFAULT_SAMPLING_PARAMS: SamplingParams = {
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
  seed: null,
  logitBias: {},
  stop: [],
  stopTokenIds: [],
  maxTokens: null,
  ignoreEos: false,
  logprobs: null,
};

interface Field {
  /** Words for the error: "expected ...". */
  readonly accepted: string;
  /** The checked value, or `undefined` if it is not accepted. */
  readonly parse: (value: unknown, vocabSize: number) => unknown;
}

const numberField = (accepted: string, isAccepted: (value: number) => boolean): Field => ({
  accepted: `a number ${accepted}`,
  parse: (value) => (typeof value === 'number' && isAccepted(value) ? value : undefined),
});

const integerField = (
  accepted: string,
  isAccepted: (value: number) => boolean,
  isNullable = false,
): Field => ({
  accepted: `an integer ${accepted}${isNullable ? ' or null' : ''}`,
  parse: (value) => {
    if (isNullable && value === null) return null;
    return Number.isSafeInteger(value) && isAccepted(value as number) ? value : undefined;
  },
});

const FIELDS: { readonly [K in keyof SamplingParams]: Field } = {
  temperature: numberField('from 0 to 100', (x) => x >= 0 && x <= 100),
  topK: {
    accepted: 'an integer from 1, or 0 or -1 for no limit',
    parse: (x) =>
      Number.isSafeInteger(x) && (x as number) >= -1 ? Math.max(x as number, 0) : undefined,
  },
  topP: numberField('above 0 and up to 1', (x) => x > 0 && x <= 1),
  minP: numberField('from 0 to 1', (x) => x >= 0 && x <= 1),
  repetitionPenalty: numberField('from 0.01 to 100', (x) => x >= 0.01 && x <= 100),
  frequencyPenalty: numberField('from -2 to 2', (x) => x >= -2 && x <= 2),
  presencePenalty: numberField('from -2 to 2', (x) => x >= -2 && x <= 2),
  seed: integerField('from -(2^53-1) to 2^53-1', () => true, true),
  logitBias: {
    accepted: `an object of up to ${MAX_TOKEN_RULES} token ids with numbers from -100 to 100`,
    parse: parseLogitBias,
  },
  stop: {
    accepted: `up to ${MAX_STOP_STRINGS} well-formed strings of 1 to ${MAX_STOP_LENGTH} characters`,
    parse: parseStop,
  },
  stopTokenIds: {
    accepted: `a list of up to ${MAX_TOKEN_RULES} token ids of the vocabulary`,
    parse: (value, vocabSize) =>
      Array.isArray(value) &&
      value.length <= MAX_TOKEN_RULES &&
      value.every((id) => isTokenId(id, vocabSize))
        ? [...value]
        : undefined,
  },
  maxTokens: integerField('from 1', (x) => x >= 1, true),
  ignoreEos: {
    accepted: 'true or false',
    parse: (value) => (typeof value === 'boolean' ? value : undefined),
  },
  logprobs: integerField(
    `from 0 to ${MAX_TOP_LOGPROBS}`,
    (x) => x >= 0 && x <= MAX_TOP_LOGPROBS,
    true,
  ),
};

function isTokenId(value: unknown, vocabSize: number): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) < vocabSize;
}

function parseLogitBias(value: unknown, vocabSize: number): Record<string, number> | undefined {
  if (value === null) return {};
  if (typeof value !== 'object' || Array.isArray(value)) return undefined;
  if (Object.keys(value).length > MAX_TOKEN_RULES) return undefined;
  const result: Record<string, number> = {};
  for (const [key, bias] of Object.entries(value)) {
    if (!/^\d+$/.test(key) || !isTokenId(Number(key), vocabSize)) return undefined;
    if (typeof bias !== 'number' || !(bias >= -100 && bias <= 100)) return undefined;
    result[String(Number(key))] = bias;
  }
  return result;
}

function parseStop(value: unknown): string[] | undefined {
  if (value === null) return [];
  const list: unknown[] =
    typeof value === 'string' ? [value] : Array.isArray(value) ? value : [null];
  const isFine = (stop: unknown): stop is string =>
    typeof stop === 'string' &&
    stop.length > 0 &&
    stop.length <= MAX_STOP_LENGTH &&
    stop.isWellFormed();
  return list.length <= MAX_STOP_STRINGS && list.every(isFine) ? list : undefined;
}

/** The value as an error shows it: short, and quoted if it is text. */
function shown(value: unknown): string {
  const text = typeof value === 'number' ? String(value) : (JSON.stringify(value) ?? String(value));
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

/**
 * Checks what a caller asked for and fills in the rest.
 *
 * @param input     any subset of the parameters; a key that is `undefined` counts as absent
 * @param vocabSize token ids in `logitBias` and `stopTokenIds` must be below this
 * @param defaults  what absent keys mean, for instance from a model's generation_config
 * @throws {RequestError} on an unknown key or a value out of range, naming both
 */
export function parseSamplingParams(
  input: unknown,
  vocabSize: number,
  defaults: SamplingParams = DEFAULT_SAMPLING_PARAMS,
): SamplingParams {
  if (typeof input !== 'object' || input === null || Array.isArray(input)) {
    throw new RequestError(
      'samplingParams',
      `samplingParams: expected an object, got ${shown(input)}`,
    );
  }
  const params: Record<string, unknown> = { ...defaults };
  for (const [key, value] of Object.entries(input)) {
    if (!Object.hasOwn(FIELDS, key)) {
      const known = Object.keys(FIELDS).join(', ');
      throw new RequestError(key, `unknown sampling parameter "${key}"; known are ${known}`);
    }
    if (value === undefined) continue;
    const field = FIELDS[key as keyof SamplingParams];
    const parsed = field.parse(value, vocabSize);
    if (parsed === undefined) {
      const scale =
        key === 'logitBias' || key === 'stopTokenIds' ? ` (vocabulary of ${vocabSize})` : '';
      throw new RequestError(
        key,
        `${key}: expected ${field.accepted}${scale}, got ${shown(value)}`,
      );
    }
    params[key] = parsed;
  }
  return params as unknown as SamplingParams;
}
