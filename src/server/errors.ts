/**
 * Errors as the API shows them: `{ error: { message, type, param, code } }`, OpenAI's shape. The only place that knows which fault of a lower
 * part is which HTTP status. Knows nothing of routes.
 */
import { GenerationError, NoChatTemplateError } from '../app/engine-text-model.ts';
import { NoTokenizerError } from '../app/open-model.ts';
import {
  EngineCallError,
  EngineClosedError,
  RequestError,
  RequestTooLongError,
} from '../engine/errors.ts';
import { GrammarError } from '../grammar/errors.ts';
import { HastenError } from '../platform/errors.ts';
import { ChatTemplateError } from '../tokenizer/errors.ts';

export interface ErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: string | null;
  };
}

/** A fault that the client is told about. */
export class ApiError extends HastenError {
  readonly status: number;
  /** OpenAI's class of error, such as `invalid_request_error`. */
  readonly type: string;
  /** The body's field at fault, as the client spelled it. */
  readonly param: string | null;
  /** What clients branch on; null where the type says it all. */
  readonly apiCode: string | null;
  /** Of the answer, beside the usual ones. */
  readonly headers: Readonly<Record<string, string>>;

  constructor(
    status: number,
    message: string,
    details: {
      type?: string;
      param?: string;
      code?: string;
      cause?: unknown;
      headers?: Readonly<Record<string, string>>;
    } = {},
  ) {
    super('api_error', message, { cause: details.cause });
    this.status = status;
    this.type = details.type ?? (status < 500 ? 'invalid_request_error' : 'server_error');
    this.param = details.param ?? null;
    this.apiCode = details.code ?? null;
    this.headers = details.headers ?? {};
  }

  toBody(): ErrorBody {
    const { message, type, param, apiCode } = this;
    return { error: { message, type, param, code: apiCode } };
  }
}

/** 400 for one field. */
export function badRequest(param: string | undefined, message: string, code?: string): ApiError {
  return new ApiError(400, message, { param, code });
}

/** 415 for a body that would have to be unpacked first. */
export function compressedBody(encoding: string): ApiError {
  const message = `content-encoding ${encoding}: bodies are taken as they are, uncompressed`;
  return new ApiError(415, message, {
    code: 'unsupported_content_encoding',
    headers: { 'accept-encoding': 'identity' },
  });
}

/** Codes of errors of an engine elsewhere that the client is to blame for. */
const CALLERS_FAULTS: ReadonlySet<string> = new Set(['invalid_session', 'context_length_exceeded']);

/** Whatever was thrown, as the API says it. Unexpected faults keep their details to the log. */
export function toApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof RequestTooLongError) {
    const param = error.param === 'prompt' ? undefined : 'max_tokens';
    const message = error.message.replaceAll('maxTokens', 'max_tokens');
    return new ApiError(400, message, { param, code: error.code, cause: error });
  }
  if (error instanceof RequestError) {
    const param = toSnakeCase(error.param.replace(/^promptTokenIds/, 'prompt'));
    const message = error.message.replace(error.param, param);
    return new ApiError(400, message, { param, cause: error });
  }
  if (error instanceof ChatTemplateError) {
    return new ApiError(400, error.message, { param: 'messages', code: error.code, cause: error });
  }
  if (error instanceof NoChatTemplateError || error instanceof NoTokenizerError) {
    return new ApiError(400, error.message, { code: error.code, cause: error });
  }
  const isCallersFault =
    error instanceof GrammarError ||
    (error instanceof EngineCallError && CALLERS_FAULTS.has(error.code));
  if (isCallersFault) {
    return new ApiError(400, error.message, { code: error.code, cause: error });
  }
  if (error instanceof GenerationError) {
    return new ApiError(500, error.message, { code: error.engineCode, cause: error });
  }
  if (error instanceof EngineClosedError) {
    return new ApiError(503, 'the engine is not running', { code: error.code, cause: error });
  }
  if (isHttpError(error)) return fromHttpError(error);
  return new ApiError(500, 'internal error; the log has the details', { cause: error });
}

/** fastify's own errors: a status and a code. */
interface HttpError extends Error {
  readonly statusCode: number;
  readonly code?: string;
}

function isHttpError(error: unknown): error is HttpError {
  return (
    error instanceof Error &&
    'statusCode' in error &&
    typeof error.statusCode === 'number' &&
    error.statusCode >= 400 &&
    error.statusCode < 500
  );
}

function fromHttpError(error: HttpError): ApiError {
  if (error.code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE') {
    return new ApiError(415, 'expected a body with content-type: application/json', {
      code: 'unsupported_media_type',
    });
  }
  if (error.code === 'FST_ERR_CTP_BODY_TOO_LARGE') {
    return new ApiError(413, `the body is larger than ${BODY_LIMIT_BYTES / 2 ** 20} MiB`, {
      code: 'body_too_large',
    });
  }
  const isJson = error instanceof SyntaxError || error.code?.includes('JSON');
  return new ApiError(
    error.statusCode,
    isJson ? `the body is not JSON: ${error.message}` : error.message,
    {
      code: isJson ? 'invalid_json' : undefined,
    },
  );
}

export const BODY_LIMIT_BYTES = 32 * 2 ** 20;

/** topK → top_k */
function toSnakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
