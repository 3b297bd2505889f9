/** The `decoder` of a tokenizer.json: which spelling its tokens have. Knows nothing of the other stages. */
import { TokenizerError } from './errors.ts';
import { asArray, asFlag, asObject, asString, shortJson } from './json-value.ts';
import { describe } from './vocabulary.ts';

export interface ParsedDecoder {
  readonly isByteLevel: boolean;
  readonly isSpaceMarked: boolean;
  readonly stripsLeadingSpace: boolean;
}

/** @throws {TokenizerError} on an unknown kind */
export function parseDecoder(json: unknown, place = 'decoder'): ParsedDecoder {
  const nothing = { isByteLevel: false, isSpaceMarked: false, stripsLeadingSpace: false };
  if (json === null || json === undefined) return nothing;
  const spec = asObject(json, place);
  const type = asString(spec.type, `${place}.type`);
  switch (type) {
    case 'Sequence': {
      const parts = asArray(spec.decoders, `${place}.decoders`).map((part, i) =>
        parseDecoder(part, `${place}.decoders[${i}]`),
      );
      return {
        isByteLevel: parts.some((part) => part.isByteLevel),
        isSpaceMarked: parts.some((part) => part.isSpaceMarked),
        stripsLeadingSpace: parts.some((part) => part.stripsLeadingSpace),
      };
    }
    case 'ByteLevel':
      return { ...nothing, isByteLevel: true };
    case 'ByteFallback':
    case 'Fuse':
      return nothing;
    case 'Metaspace': {
      const adds = asFlag(spec.add_prefix_space, `${place}.add_prefix_space`, true);
      return {
        ...nothing,
        isSpaceMarked: true,
        stripsLeadingSpace:
          spec.prepend_scheme === undefined ? adds : spec.prepend_scheme !== 'never',
      };
    }
    case 'Replace': {
      const pattern = asObject(spec.pattern, `${place}.pattern`).String;
      if (pattern === '\u2581' && spec.content === ' ') return { ...nothing, isSpaceMarked: true };
      throw new TokenizerError(
        `${place} replaces ${describe(pattern)}; accepted: "\u2581" by a space`,
      );
    }
    case 'Strip':
      if (spec.content === ' ' && spec.start === 1 && !spec.stop) {
        return { ...nothing, stripsLeadingSpace: true };
      }
      throw new TokenizerError(`${place} is a Strip of another kind than one leading space`);
    default:
      throw new TokenizerError(
        `${place} is of type ${shortJson(type)}; accepted: Sequence, ByteLevel, ByteFallback, Fuse, Metaspace, Replace, Strip`,
      );
  }
}
