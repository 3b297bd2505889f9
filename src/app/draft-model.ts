/** Whether one model can draft for another: only if every token id means the same text to both. */
import { DraftModelError } from '../engine/errors.ts';
import { OpenedModel } from './open-model.ts';
import { type TokenText, tokenTextOf } from './token-text.ts';

/**
 * @param text of the first model's tokens; null: it has no tokenizer
 * @throws {DraftModelError} naming the first difference
 */
export function assertSameVocabulary(text: TokenText | null, draftPath: string): void {
  using opened = new OpenedModel(draftPath);
  const draft = opened.tokenizer === null ? null : tokenTextOf(opened.tokenizer);
  const wayOut = 'choose a draft model of the same family';
  if (text === null || draft === null) {
    if (text === draft) return;
    const which = text === null ? 'the model' : 'the draft model';
    throw new DraftModelError(`draft model ${draftPath}: ${which} has no tokenizer; ${wayOut}`);
  }
  const [numTokens, numDraftTokens] = [text, draft].map(({ offsets }) => offsets.length - 1);
  if (numTokens !== numDraftTokens) {
    throw new DraftModelError(
      `draft model ${draftPath}: its vocabulary has ${numDraftTokens} tokens, the model's ${numTokens}; ${wayOut}`,
    );
  }
  for (let id = 0; id < numTokens!; id++) {
    const [own, other] = [text, draft].map((each) => bytesOf(each, id));
    if (own!.equals(other!)) continue;
    throw new DraftModelError(
      `draft model ${draftPath}: token ${id} is ${quote(other!)}, and ${quote(own!)} to the model; ${wayOut}`,
    );
  }
}

function bytesOf({ offsets, bytes }: TokenText, id: number): Buffer {
  const start = offsets[id]!;
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, offsets[id + 1]! - start);
}

function quote(bytes: Buffer): string {
  return JSON.stringify(bytes.toString());
}
