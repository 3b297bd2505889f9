/**
 * POST /slots/{id}?action=save, restore or erase: sessions, as far as they can be as llama.cpp's server has them. There are no slots here, keys and
 * values belong to texts: so the id means nothing and is only given back, saving and erasing say which text is meant, and what was restored is found by
 * any request that begins with that text.
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { TextModel } from '../../app/text-model.ts';
import type { EngineCallResults } from '../../engine/engine-calls.ts';
import { EngineCallError } from '../../engine/errors.ts';
import { ApiError } from '../errors.ts';
import { parseSlotAction, parseSlotRequest, type SlotRequest } from '../slots-schema.ts';
import { chatTurns } from './chat-completions.ts';
import { type Route, warnOfUnknownFields } from './context.ts';

interface SlotsRoute {
  Params: { readonly '*': string };
  Querystring: { readonly action?: unknown };
}

export const slotsRoute: Route = (server, { served, enter, sessionFolder }) => {
  server.post<SlotsRoute>('/slots/*', async (request, reply) => {
    const { id, action } = parseSlotAction(request.params['*'], request.query.action);
    const folder = sessionFolder(request);
    if (folder === null && action !== 'erase') {
      throw new ApiError(501, 'this server saves no sessions: start it with --slot-save-path', {
        code: 'not_supported',
      });
    }
    const { request: body, unknownFields } = parseSlotRequest(request.body, action);
    warnOfUnknownFields(request, unknownFields);
    const { model } = served.use(body.model);
    const { filename = '', cache_salt: cacheSalt } = body;
    const share = {
      tenant: request.caller,
      ...(cacheSalt !== undefined && { cacheSalt }),
    };
    using _ = enter(request, reply, 1);
    if (action === 'erase') {
      const tokenIds = tokenIdsOf(body, model);
      return { id_slot: id, n_erased: await model.calls.forgetPrefix({ ...share, tokenIds }) };
    }
    const path = join(folder ?? '', filename);
    const startMs = performance.now();
    const call =
      action === 'save'
        ? model.calls.saveSession(path, { ...share, tokenIds: tokenIdsOf(body, model) })
        : model.calls.restoreSession(path, share);
    const numTokens = countOf(await call.catch((error) => failed(error, path, filename)));
    const { size } = await stat(path);
    const ms = performance.now() - startMs;
    request.figures = { tokens: numTokens, bytes: size };
    return {
      id_slot: id,
      filename,
      ...(action === 'save'
        ? { n_saved: numTokens, n_written: size, timings: { save_ms: ms } }
        : { n_restored: numTokens, n_read: size, timings: { restore_ms: ms } }),
    };
  });
};

function countOf(result: EngineCallResults['saveSession' | 'restoreSession']): number {
  return typeof result === 'number' ? result : result.length;
}

function tokenIdsOf(body: SlotRequest, model: TextModel): readonly number[] {
  const { prompt, messages = [], tools, chat_template_kwargs: variables } = body;
  if (typeof prompt === 'string') return model.encodePrompt(prompt);
  return (
    prompt ??
    model.encodeChat(chatTurns(messages), { addGenerationPrompt: false, tools, variables })
  );
}

/** Where files lie on this machine is not the client's business. */
function failed(error: unknown, path: string, filename: string): never {
  if (!(error instanceof EngineCallError)) throw error;
  throw new EngineCallError(error.code, error.message.replaceAll(path, filename), {
    cause: error,
  });
}
