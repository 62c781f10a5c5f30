// Plays a video of this origin in the page: arguments are its URL and the callback, which gets what the player says.
const [url, done] = arguments;
const video = document.createElement("video");
video.src = url;
document.body.append(video);

function read() {
  const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const pixel = (x, y) => Array.from(data.slice(4 * (y * canvas.width + x), 4 * (y * canvas.width + x) + 3));
  return {
    size: [video.videoWidth, video.videoHeight],
    duration: video.duration,
    time: video.currentTime,
    frames: video.getVideoPlaybackQuality().totalVideoFrames,
    sound: video.webkitAudioDecodedByteCount,
    corners: [pixel(0, 0), pixel(canvas.width - 1, 0), pixel(0, canvas.height - 1)],
  };
}

video.addEventListener("error", () => done({ error: video.error.message }));
video.addEventListener("ended", () => done(read()));
video.play().catch((error) => done({ error: String(error) }));
