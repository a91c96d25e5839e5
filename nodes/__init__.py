"""The pack's ComfyUI nodes, in menu order."""

from .adapter import LoadAdapter, SaveAdapter
from .attention import AttentionMap, AttentionSteps, PositionSimilarity
from .budget import Budget, Compare
from .class_label import ClassLabel
from .concepts import ConceptMap
from .denoise import AddNoise, Denoise, DenoiseStep, Schedule
from .journey import TokenJourney
from .load import LoadCheckpoint, LoadDiffusers, LoadEmbedded, SaveCheckpoint
from .model import FromModel, ToModel
from .patch import Patchify, PatchifyImage, Unpatchify
from .patch_schedule import PatchRegions, PatchSchedule, PatchScheduleModel
from .pictures import ContentAndPlace, PatchFilters, PipelineReport, ResponseMaps, TokenPCA, TokenSimilarity, Trajectory
from .probe import BlockAblation, Parity
from .steering import LoadSteeringVector, SaveSteeringVector, Steer, SteeringVector, SteerModel, SteerSteps
from .step_cache import StepCache, StepCacheModel
from .textbook import DiffusionLoss, NoiseAtTime, Trainable, TrainStep
from .tokens import MixTokens, ReplaceTokens, RollTokens, ScaleTokens, ShuffleTokens, SwapTokens, TokenMap, TokenMask
from .training import NewDiT, Train, TrainingScenes, TrainingSet
from .transformer import (
    BlocksModel,
    Condition,
    FinalLayer,
    Guidance,
    PatchEmbed,
    PositionEmbed,
    RunBlocks,
    SamplerStep,
    StagesModel,
    StagesSteps,
)
from .vae import EmptyLatent, PixelSpace, VAEDecode, VAEEncode

NODES = [LoadEmbedded, FromModel, ToModel, LoadDiffusers, LoadCheckpoint, SaveCheckpoint, ClassLabel, VAEEncode, VAEDecode, PixelSpace, EmptyLatent,
         Patchify, PatchifyImage, Unpatchify, Schedule, AddNoise, DenoiseStep, Denoise,
         PatchSchedule, PatchRegions, PatchScheduleModel, StepCache, StepCacheModel, Budget, Compare,
         Condition, PatchEmbed, PositionEmbed, RunBlocks, FinalLayer, Guidance, SamplerStep, BlocksModel, StagesSteps, StagesModel,
         TokenMask, MixTokens, SwapTokens, RollTokens, ShuffleTokens, ScaleTokens, ReplaceTokens, TokenMap,
         SteeringVector, Steer, SteerSteps, SteerModel, SaveSteeringVector, LoadSteeringVector,
         Parity, BlockAblation,
         AttentionMap, AttentionSteps, ConceptMap, PositionSimilarity,
         PatchFilters, ResponseMaps, TokenPCA, TokenSimilarity, TokenJourney, Trajectory, PipelineReport, ContentAndPlace,
         NewDiT, TrainingSet, TrainingScenes, Train, LoadAdapter, SaveAdapter,
         Trainable, NoiseAtTime, DiffusionLoss, TrainStep]
