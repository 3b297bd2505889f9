/** POST /v1/embeddings: texts in, one vector of length 1 for each out: the pooled final hidden states of the running model. */
import type { Embedding, TextModel } from '../../app/text-model.ts';
import { unitVector } from '../../engine/pooling.ts';
import { type EmbeddingsRequest, parseEmbeddingsRequest } from '../embeddings-schema.ts';
import { badRequest } from '../errors.ts';
import { standingOf } from '../generation-options.ts';
import { textsOf } from '../request-schemas.ts';
import { type Route, warnOfUnknownFields } from './context.ts';

export const embeddingsRoute: Route = (server, { served, enter, pooling }) => {
  server.post('/v1/embeddings', async (request, reply) => {
    const { request: body, unknownFields } = parseEmbeddingsRequest(request.body);
    warnOfUnknownFields(request, unknownFields);
    const { model, name } = served.use(body.model);
    const dimensions = dimensionsOf(body, model);
    const texts = textsOf(body.input).map((text, index) => tokenIdsOf(text, index, model));
    const standing = standingOf(request, body);
    // Of a long list only so many are under way at once: it may not fill the queue.
    const width = Math.min(texts.length, model.limits.maxSeqs);
    using scope = enter(request, reply, width);
    const { signal } = scope;
    const embeddings = await mapSome(texts, width, (tokenIds) =>
      model.embed({ ...standing, tokenIds, pooling, signal }),
    );
    const promptTokens = embeddings.reduce((sum, each) => sum + each.promptTokens, 0);
    request.figures = { promptTokens, embeddings: embeddings.length };
    return {
      object: 'list',
      data: embeddings.map((embedding, index) => ({
        object: 'embedding',
        index,
        embedding: encoded(embedding, dimensions, body.encoding_format ?? 'float'),
      })),
      model: name,
      usage: { prompt_tokens: promptTokens, total_tokens: promptTokens },
    };
  });
};

/** @throws {ApiError} 400 if the model has fewer */
function dimensionsOf({ dimensions }: EmbeddingsRequest, { hiddenSize }: TextModel): number {
  if (dimensions === undefined || dimensions <= hiddenSize) return dimensions ?? hiddenSize;
  throw badRequest(
    'dimensions',
    `dimensions: ${dimensions} is more than the model has, expected 1 to ${hiddenSize}`,
  );
}

/** @throws {ApiError} 400 for a text without tokens */
function tokenIdsOf(text: string | number[], index: number, model: TextModel): readonly number[] {
  if (typeof text !== 'string') return text;
  const tokenIds = model.encodePrompt(text);
  if (text !== '' && tokenIds.length > 0) return tokenIds;
  throw badRequest('input', `input: text ${index} is empty`);
}

function encoded(
  { values }: Embedding,
  dimensions: number,
  format: 'float' | 'base64',
): number[] | string {
  const vector = unitVector(values, dimensions);
  if (format === 'float') return Array.from(vector);
  return Buffer.from(vector.buffer, vector.byteOffset, vector.byteLength).toString('base64');
}

/** Maps a list with at most `width` calls under way; the first that fails ends it. */
async function mapSome<T, R>(
  items: readonly T[],
  width: number,
  map: (item: T) => Promise<R>,
): Promise<R[]> {
  const results: R[] = [];
  let next = 0;
  let hasFailed = false;
  const work = async (): Promise<void> => {
    while (next < items.length && !hasFailed) {
      const index = next++;
      try {
        results[index] = await map(items[index]!);
      } catch (error) {
        hasFailed = true;
        throw error;
      }
    }
  };
  await Promise.all(Array.from({ length: width }, work));
  return results;
}
