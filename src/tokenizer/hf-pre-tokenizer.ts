/** The `pre_tokenizer` of a tokenizer.json as steps on text. Knows nothing of the other stages. */
import { TokenizerError } from './errors.ts';
import { parsePattern } from './hf-normalizer.ts';
import { asArray, asFlag, asObject, asString, shortJson } from './json-value.ts';
import {
  GPT2_PATTERN,
  type PreTokenizerStep,
  type SplitBehavior,
  splitStep,
} from './pre-tokenizer.ts';
import { translateRegex } from './regex.ts';

export interface ParsedPreTokenizer {
  readonly steps: readonly PreTokenizerStep[];
  /** The pieces are spelled in the byte alphabet. */
  readonly isByteLevel: boolean;
  /** Spaces are marked with U+2581. */
  readonly isSpaceMarked: boolean;
  /** A space is put before the text. */
  readonly addsSpace: boolean;
}

const BEHAVIORS: readonly string[] = [
  'Isolated',
  'Removed',
  'MergedWithPrevious',
  'MergedWithNext',
  'Contiguous',
] satisfies SplitBehavior[];

/** @throws {TokenizerError} on an unknown kind */
export function parsePreTokenizer(json: unknown, place = 'pre_tokenizer'): ParsedPreTokenizer {
  const nothing = { steps: [], isByteLevel: false, isSpaceMarked: false, addsSpace: false };
  if (json === null || json === undefined) return nothing;
  const spec = asObject(json, place);
  const type = asString(spec.type, `${place}.type`);
  switch (type) {
    case 'Sequence': {
      const parts = asArray(spec.pretokenizers, `${place}.pretokenizers`).map((part, i) =>
        parsePreTokenizer(part, `${place}.pretokenizers[${i}]`),
      );
      return {
        steps: parts.flatMap((part) => part.steps),
        isByteLevel: parts.some((part) => part.isByteLevel),
        isSpaceMarked: parts.some((part) => part.isSpaceMarked),
        addsSpace: parts.some((part) => part.addsSpace),
      };
    }
    case 'ByteLevel': {
      const addsSpace = asFlag(spec.add_prefix_space, `${place}.add_prefix_space`, true);
      const steps: PreTokenizerStep[] = [];
      if (addsSpace) {
        steps.push((piece) => [piece === '' || piece.startsWith(' ') ? piece : ` ${piece}`]);
      }
      if (asFlag(spec.use_regex, `${place}.use_regex`, true)) {
        steps.push(splitStep(translateRegex(GPT2_PATTERN), 'Isolated', false));
      }
      return { ...nothing, steps, isByteLevel: true, addsSpace };
    }
    case 'Split': {
      const pattern = parsePattern(spec.pattern, `${place}.pattern`);
      const expression = typeof pattern === 'string' ? translateRegex(quoted(pattern)) : pattern;
      const isInverted = asFlag(spec.invert, `${place}.invert`);
      return {
        ...nothing,
        steps: [splitStep(expression, parseBehavior(spec.behavior, place), isInverted)],
      };
    }
    case 'Digits': {
      const isSingle = asFlag(spec.individual_digits, `${place}.individual_digits`);
      return {
        ...nothing,
        steps: [splitStep(translateRegex('\\p{N}'), isSingle ? 'Isolated' : 'Contiguous', false)],
      };
    }
    case 'Punctuation':
      return {
        ...nothing,
        steps: [
          splitStep(
            translateRegex('[\\p{P}!-/:-@\\[-`{-~]'),
            spec.behavior === undefined ? 'Isolated' : parseBehavior(spec.behavior, place),
            false,
          ),
        ],
      };
    case 'Whitespace':
      return { ...nothing, steps: [splitStep(translateRegex('\\w+|[^\\w\\s]+'), 'Removed', true)] };
    case 'WhitespaceSplit':
      return { ...nothing, steps: [splitStep(translateRegex('\\s+'), 'Removed', false)] };
    case 'Metaspace':
      return parseMetaspace(spec, place);
    default:
      throw new TokenizerError(
        `${place} is of type ${shortJson(type)}; accepted: Sequence, ByteLevel, Split, Digits, Punctuation, Whitespace, WhitespaceSplit, Metaspace`,
      );
  }
}

function parseMetaspace(
  spec: Readonly<Record<string, unknown>>,
  place: string,
): ParsedPreTokenizer {
  const mark = asString(spec.replacement ?? '\u2581', `${place}.replacement`);
  if (mark !== '\u2581') {
    throw new TokenizerError(`${place}.replacement is ${shortJson(mark)}; accepted: "\u2581"`);
  }
  // Older files say `add_prefix_space`.
  const legacy = asFlag(spec.add_prefix_space, `${place}.add_prefix_space`, true);
  const scheme = spec.prepend_scheme ?? (legacy ? 'always' : 'never');
  if (scheme !== 'always' && scheme !== 'never' && scheme !== 'first') {
    throw new TokenizerError(`${place}.prepend_scheme is not one of: always, never, first`);
  }
  const steps: PreTokenizerStep[] = [
    (piece, isFirst) => {
      const marked = piece.replaceAll(' ', mark);
      const prepends = scheme === 'always' || (scheme === 'first' && isFirst);
      return [prepends && !marked.startsWith(mark) ? mark + marked : marked];
    },
  ];
  if (asFlag(spec.split, `${place}.split`, true)) {
    steps.push(splitStep(translateRegex(mark), 'MergedWithNext', false));
  }
  return { steps, isByteLevel: false, isSpaceMarked: true, addsSpace: scheme !== 'never' };
}

function parseBehavior(value: unknown, place: string): SplitBehavior {
  if (typeof value === 'string' && BEHAVIORS.includes(value)) return value as SplitBehavior;
  throw new TokenizerError(`${place}.behavior is not one of: ${BEHAVIORS.join(', ')}`);
}

function quoted(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&');
}
