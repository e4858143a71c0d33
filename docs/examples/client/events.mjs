/** The frames of `/events`. Reconnects until the server answers that it must not. */
export async function* events(url, getToken) {
  let lastEventId = "";
  let retry = 3000;
  for (;;) {
    try {
      const headers = { Authorization: `Bearer ${await getToken()}` };
      if (lastEventId) headers["Last-Event-ID"] = lastEventId;
      const response = await fetch(url, { headers });
      if (response.status === 204) return;
      if (response.status < 500 && !response.ok) throw await response.json();
      for await (const [field, value] of fieldsOf(response.body)) {
        if (field === "id") lastEventId = value;
        if (field === "retry") retry = Number(value);
        if (field === "data") yield JSON.parse(value);
      }
    } catch (problem) {
      if (problem.code) throw problem;
    }
    await new Promise((resolve) => setTimeout(resolve, retry));
  }
}

async function* fieldsOf(body) {
  let rest = "";
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) yield line.split(/: (.*)/s);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
