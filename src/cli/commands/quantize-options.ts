/** Which options of `hasten quantize` belong to which result: one that would do nothing is told of, not dropped. Knows names of options, not what they do. */

/** GGUF by a rule, GGUF with a type for each tensor, codes chosen for a layout of groups, rows rounded for a layout. */
export type QuantizeWay = 'gguf' | 'mixed' | 'grouped' | 'rounded';

export interface Asked {
  readonly way: QuantizeWay;
  readonly method?: string;
  readonly imatrix?: string;
}

interface Place {
  readonly flag: string;
  /** What it is for, in a message. */
  readonly for: string;
  fits(asked: Asked): boolean;
}

const GROUPED = '--to gptq, awq and compressed-tensors';
const MIXED = '--target-bpw and --target-size';
const TEXT = 'what runs a text (--method other than rtn, --imatrix auto)';

/** Whether the calibration text is run through the model. */
function runsText({ way, method, imatrix }: Asked): boolean {
  if (way === 'grouped') return method !== 'rtn';
  return way === 'rounded' ? method !== undefined && method !== 'rtn' : imatrix === 'auto';
}

const isMixed = ({ way }: Asked): boolean => way === 'mixed';
const isGrouped = ({ way }: Asked): boolean => way === 'grouped';
const isGguf = ({ way }: Asked): boolean => way === 'gguf' || way === 'mixed';

/** By the name that commander gives an option; those that always fit are left out. */
const PLACES: Readonly<Record<string, Place>> = {
  method: {
    ...{ flag: '--method', for: 'the layouts of Hugging Face' },
    fits: (asked) => !isGguf(asked),
  },
  bits: { flag: '--bits', for: GROUPED, fits: isGrouped },
  groupSize: { flag: '--group-size', for: GROUPED, fits: isGrouped },
  symmetry: { flag: '--symmetry', for: GROUPED, fits: isGrouped },
  iterations: {
    ...{ flag: '--iterations', for: '--method autoround' },
    fits: ({ method }) => method === 'autoround',
  },
  smoothingStrength: {
    ...{ flag: '--smoothing-strength', for: '--method smoothquant' },
    fits: ({ method }) => method === 'smoothquant',
  },
  outlierThreshold: {
    ...{ flag: '--outlier-threshold', for: '--method llm-int8' },
    fits: ({ method }) => method === 'llm-int8',
  },
  outlierShare: {
    ...{ flag: '--outlier-share', for: '--method llm-int8' },
    fits: ({ method }) => method === 'llm-int8',
  },
  imatrix: { flag: '--imatrix', for: 'GGUF types', fits: isGguf },
  formats: { flag: '--formats', for: MIXED, fits: isMixed },
  searchTokens: { flag: '--search-tokens', for: MIXED, fits: isMixed },
  chart: { flag: '--chart', for: MIXED, fits: isMixed },
  tokens: { flag: '--tokens', for: TEXT, fits: runsText },
  calibration: { flag: '--calibration', for: TEXT, fits: (a) => isMixed(a) || runsText(a) },
  calibrationChat: {
    ...{ flag: '--calibration-chat', for: TEXT },
    fits: (asked) => isMixed(asked) || runsText(asked),
  },
  window: { flag: '--window', for: TEXT, fits: (asked) => isMixed(asked) || runsText(asked) },
};

export const PLACED_OPTIONS: readonly string[] = Object.keys(PLACES);

/**
 * @param given names of the options that were typed
 * @returns what is wrong with the first that does nothing; null if all do something
 */
export function uselessOption(asked: Asked, given: readonly string[]): string | null {
  const place = given.map((name) => PLACES[name]).find((each) => each?.fits(asked) === false);
  return place === undefined ? null : `${place.flag} would do nothing here: it is for ${place.for}`;
}
