"""A video from Python: what ``longtake predict`` does, without the command line and Lightning."""

from pathlib import Path

from longtake.api import (
    Engine,
    FifoQueue,
    FramesDecoded,
    GenerationConfig,
    PromptAt,
    Request,
    SingleDevice,
    VideoShape,
    frame_writer,
)

generation_config = GenerationConfig(
    pipeline="demo", scheduler=FifoQueue(8, 8), steps=16, guidance_scale=2.0, dtype="float32"
)
prompt = PromptAt(text="a blue square moving vertically on a black background")
request = Request(prompts=(prompt,), num_frames=129, height=64, width=64)
with frame_writer("mp4", Path(), VideoShape(height=64, width=64, fps=16, zoom=4)) as video:
    for event in Engine(generation_config, SingleDevice()).generate(request):
        if isinstance(event, FramesDecoded):
            video.write(event.frames)
