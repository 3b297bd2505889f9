/**
 * An OpenAI-compatible server of which a test says how each request goes. Knows no model: it answers with as many one-letter tokens as
 * `max_tokens` says.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';

/** How one request goes; `pieces` counts what is sent before the fault. */
export type Script =
  | { readonly kind: 'answer'; readonly firstMs?: number; readonly gapMs?: number }
  | { readonly kind: 'status'; readonly status: number; readonly retryAfter?: string }
  | {
      readonly kind: 'reset' | 'stall' | 'truncate' | 'malformed' | 'error';
      readonly pieces: number;
    }
  | { readonly kind: 'json' }
  /** Closes the connection unanswered if it carried a request before: its keep-alive time was over. Otherwise answers. */
  | { readonly kind: 'close-if-kept' };

export interface SeenRequest {
  readonly path: string;
  readonly headers: IncomingMessage['headers'];
  readonly body: FakeBody;
}

export interface FakeBody {
  readonly model: string;
  readonly prompt?: unknown;
  readonly messages?: { role: string; content: string }[];
  readonly max_tokens?: number;
  readonly [field: string]: unknown;
}

export class FakeServer implements AsyncDisposable {
  readonly seen: SeenRequest[] = [];
  readonly #server: Server;
  readonly #script: (index: number, request: SeenRequest) => Script;
  /** Connections that carried a request. */
  readonly #used = new WeakSet<Socket>();
  numRunning = 0;
  mostRunning = 0;

  private constructor(script: (index: number, request: SeenRequest) => Script) {
    this.#script = script;
    this.#server = createServer((request, response) => void this.#serve(request, response));
    this.#server.keepAliveTimeout = 60_000;
  }

  /** @param script what happens to the request of an index, counted from 0 */
  static async start(
    script: (index: number, request: SeenRequest) => Script = () => ({ kind: 'answer' }),
  ): Promise<FakeServer> {
    const fake = new FakeServer(script);
    const listening = Promise.withResolvers<void>();
    fake.#server.listen(0, '127.0.0.1', listening.resolve);
    await listening.promise;
    return fake;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    const closed = Promise.withResolvers<void>();
    this.#server.close(() => closed.resolve());
    await closed.promise;
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (request.url === '/v1/models') {
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify({ object: 'list', data: [{ id: 'fake', object: 'model' }] }));
      return;
    }
    const body = JSON.parse(await text(request)) as FakeBody;
    const seen = { path: request.url ?? '', headers: request.headers, body };
    const script = this.#script(this.seen.push(seen) - 1, seen);
    if (script.kind === 'close-if-kept') {
      if (this.#used.has(request.socket)) {
        request.socket.destroy();
        return;
      }
      this.#used.add(request.socket);
    }
    this.numRunning++;
    this.mostRunning = Math.max(this.mostRunning, this.numRunning);
    try {
      await this.#play(script, seen, response);
    } finally {
      this.numRunning--;
    }
  }

  async #play(
    script: Script,
    { path, body }: SeenRequest,
    response: ServerResponse,
  ): Promise<void> {
    if (script.kind === 'status') {
      response.statusCode = script.status;
      response.setHeader('content-type', 'application/json');
      if (script.retryAfter !== undefined) response.setHeader('retry-after', script.retryAfter);
      response.end(JSON.stringify({ error: { message: `told to say ${script.status}` } }));
      return;
    }
    if (script.kind === 'json') {
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify({ choices: [{ message: { content: 'whole' } }] }));
      return;
    }
    const isChat = path.endsWith('/chat/completions');
    const numTokens = 'pieces' in script ? script.pieces : (body.max_tokens ?? 4);
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.flushHeaders();
    const send = (value: unknown): boolean =>
      response.write(`data: ${typeof value === 'string' ? value : JSON.stringify(value)}\n\n`);
    const choice = (content: string, finish: string | null = null): unknown => ({
      choices: [
        isChat
          ? { index: 0, delta: { content }, finish_reason: finish }
          : { index: 0, text: content, finish_reason: finish },
      ],
    });
    // As OpenAI's servers begin a chat: a role, and nothing said yet.
    if (isChat) send({ choices: [{ index: 0, delta: { role: 'assistant', content: '' } }] });
    for (let i = 0; i < numTokens; i++) {
      const waitMs = script.kind === 'answer' ? (i === 0 ? script.firstMs : script.gapMs) : 0;
      if (waitMs) await sleep(waitMs);
      send(choice(String.fromCharCode(97 + (i % 26))));
    }
    switch (script.kind) {
      case 'answer':
      case 'close-if-kept':
        send(choice('', 'length'));
        send({ choices: [], usage: usageOf(body, numTokens) });
        send('[DONE]');
        response.end();
        return;
      case 'reset':
        await sleep(5);
        response.socket?.resetAndDestroy();
        return;
      case 'stall':
        return;
      case 'truncate':
        response.end();
        return;
      case 'malformed':
        send('{"choices":[{"te');
        return;
      case 'error':
        send({ error: { message: 'the engine broke', type: 'server_error' } });
        response.end();
        return;
      default:
        script satisfies never;
    }
  }
}

function usageOf(body: FakeBody, completion: number): Record<string, unknown> {
  const words = (content: string): number => content.split(/\s+/).length;
  const prompt = Array.isArray(body.prompt)
    ? body.prompt.length
    : (body.messages ?? []).reduce((sum, { content }) => sum + words(content), 0);
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: { cached_tokens: 1 },
  };
}

/** A port on which nothing listens. */
export async function closedPort(): Promise<number> {
  await using server = await FakeServer.start();
  return Number(new URL(server.url).port);
}
