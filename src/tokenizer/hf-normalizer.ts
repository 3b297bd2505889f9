/** The `normalizer` of a tokenizer.json as a function on text. Knows nothing of the other stages. */
import { TokenizerError } from './errors.ts';
import { asArray, asFlag, asObject, asString, shortJson } from './json-value.ts';
import { translateRegex, WHITE_SPACE } from './regex.ts';

export type Normalizer = (text: string) => string;

const LEADING_SPACE = new RegExp(`^[${WHITE_SPACE}]+`, 'v');
const TRAILING_SPACE = new RegExp(`(?<![${WHITE_SPACE}])[${WHITE_SPACE}]+$`, 'v');

/** @returns null where there is nothing to do @throws {TokenizerError} on an unknown kind */
export function parseNormalizer(json: unknown, place = 'normalizer'): Normalizer | null {
  if (json === null || json === undefined) return null;
  const spec = asObject(json, place);
  const type = asString(spec.type, `${place}.type`);
  switch (type) {
    case 'Sequence': {
      const steps = asArray(spec.normalizers, `${place}.normalizers`)
        .map((step, i) => parseNormalizer(step, `${place}.normalizers[${i}]`))
        .filter((step) => step !== null);
      return (text) => steps.reduce((current, step) => step(current), text);
    }
    case 'NFC':
    case 'NFD':
    case 'NFKC':
    case 'NFKD':
      return (text) => text.normalize(type);
    case 'Lowercase':
      return (text) => text.toLowerCase();
    case 'StripAccents':
      return (text) => text.replace(/\p{Mn}/gu, '');
    case 'Strip': {
      const isLeft = asFlag(spec.strip_left, `${place}.strip_left`, true);
      const isRight = asFlag(spec.strip_right, `${place}.strip_right`, true);
      return (text) => {
        const cut = isLeft ? text.replace(LEADING_SPACE, '') : text;
        return isRight ? cut.replace(TRAILING_SPACE, '') : cut;
      };
    }
    case 'Prepend': {
      const prefix = asString(spec.prepend, `${place}.prepend`);
      return (text) => (text === '' ? '' : prefix + text);
    }
    case 'Replace': {
      const content = asString(spec.content, `${place}.content`);
      const pattern = parsePattern(spec.pattern, `${place}.pattern`);
      if (typeof pattern === 'string') return (text) => text.replaceAll(pattern, () => content);
      return (text) => text.replace(pattern, () => content);
    }
    default:
      throw new TokenizerError(
        `${place} is of type ${shortJson(type)}; accepted: Sequence, NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip, Prepend, Replace`,
      );
  }
}

/** `{ "String": … }` as it is, `{ "Regex": … }` translated. */
export function parsePattern(json: unknown, place: string): string | RegExp {
  const pattern = asObject(json, place);
  if (pattern.String !== undefined) return asString(pattern.String, `${place}.String`);
  return translateRegex(asString(pattern.Regex, `${place}.Regex`));
}
