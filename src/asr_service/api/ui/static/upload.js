// A recording on its way to POST /transcribe, and its answer, which comes line by line (docs/api.md, Streams).

import { address, refusal, ServiceError } from "./service.js";

/** It was cancelled here. */
export class Cancelled extends Error {}
/** The connection broke off. */
export class BrokeOff extends Error {}

/**
 * Send `file` with `fields`. `onUpload(share)` hears how much has been sent, `onSegment(segment)` what has been recognised.
 * `done` is the promise of the transcript; it fails with ServiceError, BrokeOff or Cancelled. `cancel()` ends it.
 */
export function transcribe(file, fields, { onUpload, onSegment }) {
  const request = new XMLHttpRequest();
  const done = new Promise((resolve, reject) => {
    const answer = new Answer(onSegment);
    request.upload.addEventListener("progress", ({ loaded, total }) => onUpload(total > 0 ? loaded / total : 0));
    request.upload.addEventListener("load", () => onUpload(1));
    request.addEventListener("progress", () => {
      if (request.status === 200) answer.read(request.responseText);
    });
    request.addEventListener("load", () => {
      if (request.status !== 200) {
        reject(refusal(request.status, request.responseText));
        return;
      }
      answer.read(request.responseText);
      if (answer.problem !== null) reject(new ServiceError(answer.problem));
      else if (answer.transcript === null) reject(new BrokeOff());
      else resolve(answer.transcript);
    });
    request.addEventListener("error", () => reject(new BrokeOff()));
    request.addEventListener("abort", () => reject(new Cancelled()));
  });
  const form = new FormData();
  // Before the file, so that a bad value does not cost the upload.
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  form.append("file", file);
  request.open("POST", address("../transcribe"));
  request.setRequestHeader("Accept", "application/x-ndjson");
  request.send(form);
  return { done, cancel: () => request.abort() };
}

class Answer {
  constructor(onSegment) {
    this.onSegment = onSegment;
    this.taken = 0;
    this.transcript = null;
    this.problem = null;
  }

  /** Take the lines that are whole by now. */
  read(text) {
    for (let end = text.indexOf("\n", this.taken); end >= 0; end = text.indexOf("\n", this.taken)) {
      const line = JSON.parse(text.slice(this.taken, end));
      this.taken = end + 1;
      if (line.type === "segment") this.onSegment(line);
      else if (line.type === "transcript") this.transcript = line;
      else if (line.type === "error") this.problem = line.detail;
    }
  }
}
