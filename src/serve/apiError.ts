/**
 * Errors as clients of the HTTP API see them: a status and OpenAI's `{error: {message, type, param, code}}`. What
 * is not meant for clients becomes a plain 500 here. Knows nothing of requests.
 */
import { messageOf, UserError } from '../common/errors.ts';

/** OpenAI's kinds, as far as this server has them. */
export type ApiErrorType =
  | 'invalid_request_error'
  | 'authentication_error'
  | 'permission_error'
  | 'not_found_error'
  | 'rate_limit_error'
  | 'timeout_error'
  | 'unavailable_error'
  | 'not_implemented_error'
  | 'server_error';

export interface ApiErrorDetails {
  /** The field that is wrong, as `messages[0].content`. */
  readonly param?: string;
  /** A word for programs, as `model_not_found`. */
  readonly code?: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** For the server's log; clients never see it. */
  readonly cause?: unknown;
}

/** `{"error": {…}}` of a response. */
export interface ApiErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: ApiErrorType;
    readonly param: string | null;
    readonly code: string | null;
  };
}

const TYPES: Readonly<Record<number, ApiErrorType>> = {
  401: 'authentication_error',
  403: 'permission_error',
  404: 'not_found_error',
  429: 'rate_limit_error',
  501: 'not_implemented_error',
  503: 'unavailable_error',
  504: 'timeout_error',
};

/** A refusal or failure that a client is told of. */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  readonly status: number;
  readonly details: ApiErrorDetails;

  /** status: an HTTP status from 400 on; the body's `type` follows from it. */
  constructor(status: number, message: string, details: ApiErrorDetails = {}) {
    super(message, 'cause' in details ? { cause: details.cause } : {});
    this.status = status;
    this.details = details;
  }

  get body(): ApiErrorBody {
    const { param = null, code = null } = this.details;
    const type = TYPES[this.status] ?? (this.status < 500 ? 'invalid_request_error' : 'server_error');
    return { error: { message: this.message, type, param, code } };
  }

  response(): Response {
    return Response.json(this.body, { status: this.status, headers: { ...this.details.headers } });
  }
}

/** What a client is told of anything thrown while its request was read: a `UserError` is a mistake of the request. */
export function requestError(error: unknown, param?: string): ApiError {
  if (error instanceof UserError) {
    return new ApiError(400, messageOf(error), param === undefined ? {} : { param });
  }
  return publicError(error);
}

/** What a client is told of anything else thrown: an `ApiError` as it is, of all others only that they happened. */
export function publicError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  return new ApiError(500, 'internal error; the server’s log has it', { cause: error });
}
