"""Rules about videos in a dataset."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from flux_training.training.dataset.image_facts import ImageFacts
from flux_training.training.finding import Problem
from flux_training.training.lint.registry import Area, Subject
from flux_training.training.names import OTHER_VIDEO_SUFFIXES, VIDEO_SUFFIXES, folder_of
from flux_training.training.train_yml.dataset_folders import trained_folder
from flux_training.training.values import whole_number
from flux_training.training.words import counted

AREA = Area("videos")


class VideoFolder(NamedTuple):
    """An entry of `datasets` and the videos in its folder. `frames`: its num_frames; None if each video's own number is used."""

    number: int
    entry: dict[str, Any]
    videos: list[ImageFacts]
    frames: int | None


@AREA.error(
    "dataset-video",
    f"the number of frames can be read only from {', '.join(VIDEO_SUFFIXES)}; other videos cannot be checked",
    "convert the video, for example with `ffmpeg -i clip.webm clip.mp4`, and remove the original from the dataset",
    needed=True,
)
def videos_of_other_formats(job: Subject) -> Iterator[Problem]:
    for name in job.dataset.strangers if job.dataset else ():
        if name.lower().endswith(OTHER_VIDEO_SUFFIXES):
            yield job.dataset_problem(name, "a video in a format that is not supported")


@AREA.error(
    "video-ignored",
    "ai-toolkit silently skips videos unless num_frames is above 1, and not every model can train on videos",
    "set num_frames of this entry of `datasets`, for example to 41, and use a model for videos; or remove the videos from the folder",
)
def videos_that_are_not_trained(job: Subject) -> Iterator[Problem]:
    for number, _, videos, frames in _video_folders(job):
        what = counted(len(videos), "video")
        place = ("datasets", str(number), "num_frames")
        if job.model and not job.model.datasets.videos:
            yield job.process_problem(f"{what} for {job.model.name}, which trains on images", *place)
        elif frames == 1:
            yield job.process_problem(f"{what}, and num_frames is 1", *place)


@AREA.error(
    "video-options",
    "ai-toolkit stops at the first video if one of these options is set",
    "remove the option, or remove the videos from the folder",
)
def options_that_videos_do_not_allow(job: Subject) -> Iterator[Problem]:
    for number, entry, _, _ in _video_folders(job):
        wrong = [key for key in ("augments", "augmentations") if entry.get(key)]
        wrong += ["buckets"] if entry.get("buckets", True) in (False, None) else []
        for key in wrong:
            message = f"datasets[{number}].{key} is {entry[key]!r:.60} with videos"
            yield job.process_problem(message, "datasets", str(number), key)


@AREA.warning(
    "video-short",
    "ai-toolkit repeats frames of a short video until there are enough, so the LoRA learns that motion stops",
    "use a longer video, or lower num_frames of this entry of `datasets`",
)
def videos_with_too_few_frames(job: Subject) -> Iterator[Problem]:
    for _, _, videos, frames in _video_folders(job):
        for video in videos:
            if video.sound and frames and video.frames < frames:
                yield job.dataset_problem(
                    video.name, f"{counted(video.frames, 'frame')}, and num_frames is {frames}"
                )


@AREA.warning(
    "video-frames",
    "after the first frame, a video model processes frames in groups, and ignores an incomplete last group",
    "set num_frames to one of the two suggested numbers",
)
def frames_that_are_dropped(job: Subject) -> Iterator[Problem]:
    joined = job.model.tokens.frames if job.model else 1
    for number, _, _, frames in _video_folders(job):
        if frames and (left := (frames - 1) % joined):
            fits = f"{frames - left} and {frames - left + joined} fit {job.model.name if job.model else ''}"
            message = f"datasets[{number}].num_frames is {frames}; {fits}"
            yield job.process_problem(message, "datasets", str(number), "num_frames")


def _video_folders(job: Subject) -> Iterator[VideoFolder]:
    for number, entry in enumerate(job.config.datasets if job.config else ()):
        folder = trained_folder(entry)
        videos = [
            image for image in job.images.values() if image.is_video and folder_of(image.name) == folder
        ]
        if videos:
            is_automatic = bool(entry.get("auto_frame_count"))
            frames = None if is_automatic else whole_number(entry.get("num_frames"), 1)
            yield VideoFolder(number, dict(entry), videos, frames)
