/** The `post_processor` of a tokenizer.json: the ids that go around a text. Knows nothing of the other stages. */
import { TokenizerError } from './errors.ts';
import { asArray, asFlag, asObject, asString, type JsonObject, shortJson } from './json-value.ts';
import { describe } from './vocabulary.ts';

/** What goes around a text: the post-processor's template, overruled by `add_bos_token` and `add_eos_token`. */
export function idsAround(
  postProcessor: unknown,
  config: JsonObject,
  bosTokenId: number | null,
  eosTokenId: number | null,
): { prefixIds: number[]; suffixIds: number[] } {
  const around = templateIds(postProcessor, 'post_processor');
  const wants = (flag: unknown, place: string): boolean | null =>
    flag === undefined || flag === null ? null : asFlag(flag, place);
  const { prefixIds, suffixIds } = around;
  const wantsBos = wants(config.add_bos_token, 'add_bos_token');
  const wantsEos = wants(config.add_eos_token, 'add_eos_token');
  const withoutBos = prefixIds.filter((id) => id !== bosTokenId);
  const withoutEos = suffixIds.filter((id) => id !== eosTokenId);
  return {
    prefixIds:
      wantsBos === null || bosTokenId === null
        ? prefixIds
        : wantsBos
          ? [bosTokenId, ...withoutBos]
          : withoutBos,
    suffixIds:
      wantsEos === null || eosTokenId === null
        ? suffixIds
        : wantsEos
          ? [...withoutEos, eosTokenId]
          : withoutEos,
  };
}

function templateIds(json: unknown, place: string): { prefixIds: number[]; suffixIds: number[] } {
  const around = { prefixIds: [] as number[], suffixIds: [] as number[] };
  if (json === null || json === undefined) return around;
  const spec = asObject(json, place);
  switch (spec.type) {
    case 'Sequence':
      for (const [i, part] of asArray(spec.processors, `${place}.processors`).entries()) {
        const inner = templateIds(part, `${place}.processors[${i}]`);
        around.prefixIds.unshift(...inner.prefixIds);
        around.suffixIds.push(...inner.suffixIds);
      }
      return around;
    case 'TemplateProcessing': {
      const tokens = asObject(spec.special_tokens ?? {}, `${place}.special_tokens`);
      let isBefore = true;
      for (const [i, item] of asArray(spec.single, `${place}.single`).entries()) {
        const part = asObject(item, `${place}.single[${i}]`);
        if (part.Sequence !== undefined) {
          isBefore = false;
          continue;
        }
        const name = asString(
          asObject(part.SpecialToken, `${place}.single[${i}].SpecialToken`).id,
          `${place}.single[${i}].SpecialToken.id`,
        );
        const token = asObject(tokens[name], `${place}.special_tokens[${shortJson(name)}]`);
        const ids = asArray(token.ids, `${place}.special_tokens[${shortJson(name)}].ids`);
        (isBefore ? around.prefixIds : around.suffixIds).push(...(ids as number[]));
      }
      return around;
    }
    case 'ByteLevel':
      return around; // changes offsets only
    default:
      throw new TokenizerError(
        `${place} is of type ${describe(spec.type)}; accepted: Sequence, TemplateProcessing, ByteLevel`,
      );
  }
}
