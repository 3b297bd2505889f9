/** POST /tokenize and /detokenize, as vLLM and llama.cpp have them: text or messages to token ids, and back. */

import { parseDetokenizeRequest, parseTokenizeRequest } from '../token-schemas.ts';
import { chatTurns } from './chat-completions.ts';
import type { Route } from './context.ts';

export const tokensRoute: Route = (server, { served }) => {
  server.post('/tokenize', async (request) => {
    const body = parseTokenizeRequest(request.body);
    const { model } = served.use(body.model);
    const text = body.prompt ?? body.content ?? '';
    const tokens =
      body.messages !== undefined
        ? model.encodeChat(chatTurns(body.messages), {
            addGenerationPrompt: body.add_generation_prompt,
            variables: body.chat_template_kwargs,
          })
        : (body.add_special_tokens ?? body.add_special ?? body.prompt !== undefined)
          ? model.encodePrompt(text)
          : model.tokenize(text);
    return { tokens, count: tokens.length, max_model_len: model.maxModelLen };
  });

  server.post('/detokenize', async (request) => {
    const { tokens, model: name } = parseDetokenizeRequest(request.body);
    const text = served.use(name).model.decode(tokens);
    // vLLM's name for it, and llama.cpp's.
    return { prompt: text, content: text };
  });
};
