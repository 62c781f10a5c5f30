// Sends every kind of request that a page can make to a server, with and without a CORS preflight.
// Arguments: the address of the server, the id of a video, and a callback for the results.
const [server, video, done] = arguments;

// Return the status and text of a response if the page may read them, "opaque" if it may not, "blocked" if the fetch failed.
const fetched = async (path, options) => {
  try {
    const answer = await fetch(server + path, options);
    return answer.type === "opaque" ? "opaque" : [answer.status, await answer.text()];
  } catch {
    return "blocked";
  }
};

// Return whether an element has loaded its source.
const loaded = (name, event, attributes) =>
  new Promise((resolve) => {
    const element = document.createElement(name);
    element.addEventListener(event, () => resolve(true));
    element.addEventListener("error", () => resolve(false));
    Object.assign(element, attributes);
    document.body.append(element);
  });

const heard = (source, event) =>
  new Promise((resolve) => {
    source.addEventListener(event, () => { source.close(); resolve(true); });
    source.addEventListener("error", () => { source.close(); resolve(false); });
  });

const picture = () => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 32;
  canvas.getContext("2d").fillRect(0, 0, 16, 16);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
};

const order = { model: "text-to-video", prompt: "ordered" };
const multipart = () => {
  const form = new FormData();
  for (const [name, value] of Object.entries(order)) form.append(name, value);
  return form;
};

// Create a video from a sandboxed frame, which has an opaque origin.
const sandboxed = () =>
  new Promise((resolve) => {
    const frame = document.createElement("iframe");
    window.addEventListener("message", (event) => resolve(event.data));
    frame.sandbox = "allow-scripts";
    const body = JSON.stringify(new URLSearchParams(order).toString());
    const headers = '{"Content-Type": "application/x-www-form-urlencoded"}';
    const options = `{ method: "POST", mode: "no-cors", headers: ${headers}, body: ${body} }`;
    const url = JSON.stringify(`${server}/v1/videos?sandboxed=1`);
    const say = 'parent.postMessage(how, "*")';
    frame.srcdoc = `<script>fetch(${url}, ${options}).then(({ type: how }) => ${say}, (how) => ${say})</script>`;
    document.body.append(frame);
  });

const attempt = async () => {
  const upload = new FormData();
  upload.append("file", await picture(), "a.png");
  const unasked = { method: "POST", mode: "no-cors" };
  const json = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(order) };
  const content = `/v1/videos/${video}/content?variant=`;
  return {
    read: {
      health: await fetched("/healthz"),
      metrics: await fetched("/metrics"),
      schema: await fetched("/openapi.json"),
      models: await fetched("/v1/models"),
      videos: await fetched("/v1/videos"),
      files: await fetched("/v1/files"),
      video: await fetched(`/v1/videos/${video}`),
      content: await fetched(content + "thumbnail"),
    },
    shown: {
      image: await loaded("img", "load", { src: `${server}${content}thumbnail` }),
      video: await loaded("video", "loadedmetadata", { src: `${server}${content}video`, preload: "metadata" }),
      events: await heard(new EventSource(`${server}/v1/videos/${video}/events`), "status"),
      socket: await heard(new WebSocket(`${server.replace("http", "ws")}/v1/videos`), "open"),
    },
    sent: {
      urlencoded: await fetched("/v1/videos", { ...unasked, body: new URLSearchParams(order) }),
      multipart: await fetched("/v1/videos", { ...unasked, body: multipart() }),
      plain: await fetched("/v1/videos", { ...unasked, body: JSON.stringify(order) }),
      untyped: await fetched("/v1/videos", { ...unasked, body: new Blob([JSON.stringify(order)]) }),
      upload: await fetched("/v1/files", { ...unasked, body: upload }),
      cancel: await fetched(`/v1/videos/${video}/cancel`, unasked),
    },
    asked: {
      json: await fetched("/v1/videos", json),
      remove: await fetched(`/v1/videos/${video}`, { method: "DELETE" }),
    },
    sandboxed: await sandboxed(),
    beacon: navigator.sendBeacon(`${server}/v1/videos?beacon=1`, multipart()),
  };
};

attempt().then(done, (error) => done(String(error)));
