"""Where the nodes of the example workflows stand: presets for lay_out.py.

subgraphs: title → the nodes in it (ids, or titles of subgraphs made before), and the widgets inside that its node shows.
columns, left to right: the title of the group, its width, the nodes in it from top to bottom.
collapsed: nodes of which only the title is shown.
"""

# Types of nodes that the front end shows a picture on after a run, and those with a picture on a panel of the pack's own.
PICTURES = {"SaveImage", "PreviewImage", "KSampler"} | {f"DiTBlocks{name}" for name in (
    "PatchFilters", "Trajectory", "PipelineReport", "Train")}
MAPS = {f"DiTBlocks{name}" for name in (
    "AttentionMap", "AttentionSteps", "ConceptMap", "PositionSimilarity", "TokenPCA", "ContentAndPlace", "ResponseMaps")}


def parts(graph: dict, types: dict) -> dict[str, list[int]]:
    """How many inputs, widgets and outputs each of the pack's types of node in a workflow has: what their sizes hang on."""
    found = {node["type"] for one in (graph, *graph.get("definitions", {}).get("subgraphs", ())) for node in one["nodes"]}
    counts = {}
    for name in sorted(name for name in found if name.startswith("DiTBlocks")):
        widgets = sum(socket.is_widget for socket in types[name].sockets.values())
        counts[name] = [len(types[name].sockets) - widgets, widgets, len(types[name].output_types)]
    return counts


def branches(start: str, names: list[str], widget: tuple[int, str]) -> dict:
    """One step in three ways: what comes before it, each way with the picture it leads to, and two pictures of each."""
    ways = {name: ([*range(10 + 14 * i, 20 + 14 * i), 21 + 14 * i, 22 + 14 * i], [(widget[0] + 14 * i, widget[1])]) for i, name in enumerate(names)}
    return {
        "subgraphs": {start: ([1, 2, 3, 4, 5, 6, 7, 8], [(2, "text"), (7, "seed")]), **ways},
        "columns": [("", 290, [9, start]), ("1 One step in three ways", 235, names),
                    *((f"{i + 2} {name}", 236, [20 + 14 * i, 23 + 14 * i]) for i, name in enumerate(names))],
    }


def guided(worse: str, stages: list[int], widget: tuple[int, str]) -> dict:
    """Guidance away from a model that was made worse."""
    return {
        "subgraphs": {"Steps 0 to 2": ([1, 2, 3, 4, 5, 6, 7, 8], [(2, "text"), (7, "seed")]), "The model as it is": ([10, 11, 12, 13, 14], []),
                      worse: (stages, [widget]), "Step and decode": ([16, 17, 18], []), "Step and decode too": ([26, 27, 28], [])},
        "columns": [("", 290, [9, "Steps 0 to 2"]), ("1 Predict", 232, ["The model as it is", worse]), ("2 Guide", 252, [15, 25]),
                    ("3 Step, decode", 226, ["Step and decode", "Step and decode too"]), ("4 The pictures", 250, [19, 29])],
    }


NOISY = "Noisy tokens"
TRAIN = [(6, one) for one in ("name", "steps", "batch", "learning_rate")]

LAYOUTS: dict[str, dict] = {
    "start_here": {
        "subgraphs": {"Model, latent, schedule": ([1, 3, 5, 7], []), "Unpatchify, decode": ([10, 11], [])},
        "columns": [("", 330, [4]), ("1 Prompt", 226, ["Model, latent, schedule", 2]), ("2 Patchify", 230, [6, 8]), ("3 Denoise", 230, [9]),
                    ("4 Picture", 226, ["Unpatchify, decode", 12])]},
    "text_to_image": {"columns": [("", 250, [4, 1]), ("1 Encode", 250, [2, 3, 5]), ("2 Patchify", 250, [6, 7]), ("3 Denoise", 250, [8, 9]),
                                  ("4 Decode", 242, [10, 11, 12])]},
    "everything_twice": {
        "subgraphs": {"Noisy tokens, embedded": ([1, 3, 5, 6, 7, 8, 53, 54], [(6, "patch_size"), (8, "seed")]), "Unpatchify, decode": ([10, 11], []),
                      "The model's own steps": ([60, 61, 62], [])},
        "columns": [("", 270, [4]), ("1 Prompt", 250, [2, "Noisy tokens, embedded", "The model's own steps"]), ("2 Wire one step", 240, [55, 56, 57, 58]),
                    ("3 Run it in every step", 240, [59, 9]), ("4 The picture", 236, ["Unpatchify, decode", 12, 63])]},
    "learn_01_pixels_to_latents": {
        "subgraphs": {"One token for each cell": ([10], [])},
        "columns": [("", 270, [1, 3]), ("1 Encode", 240, [4, 5, 6]), ("2 The latent", 260, [8, "One token for each cell", 7]),
                    ("3 What it holds", 500, [9, 11])]},
    "learn_02_latents_to_patches": {
        "subgraphs": {"Also p = 4 and p = 8": ([9, 12, 15, 16], [])},
        "columns": [("", 250, [1]), ("1 Encode", 226, [3, 4, 5, "Also p = 4 and p = 8"]), ("2 Patchify", 230, [6, 21]), ("3 Tokens", 276, [23, 25]),
                    ("4 What it costs", 270, [22, 17])]},
    "learn_03_patch_embedding": {
        "subgraphs": {"A picture, encoded": ([4, 5, 7, 8], [(4, "seed")])},
        "collapsed": [14],
        "columns": [("", 268, [1]), ("1 Encode", 226, [3, "A picture, encoded", 9, 10]), ("2 Patchify", 226, [6, 17]),
                    ("3 Its matrix", 240, [11, 14]), ("4 What it answers", 288, [18, 16])]},
    "learn_04_positions": {
        "subgraphs": {"A picture, encoded": ([4, 5], []), "Another picture": ([13, 14, 15], []),
                      "Empty prompt, a step": ([6, 7, 18], [])},
        "collapsed": [12],
        "columns": [("", 260, [1, 3]), ("1 Patchify", 226, ["A picture, encoded", 8, "Another picture", "Empty prompt, a step"]),
                    ("2 Where alike", 290, [10, 19, 12]), ("3 Content and place", 524, [11])]},
    "learn_05_time_and_text": {
        "subgraphs": {"Noise, and eight steps": ([5, 6, 7, 8, 9, 15], []), "Decode": ([12, 13], []),
                      "The ninth step": ([20, 21, 22, 30], [(20, "step")])},
        "columns": [("", 320, [1, 3]), ("1 Time", 250, [4, "Noise, and eight steps", "The ninth step", 23]),
                    ("2 Text", 400, [10]), ("3 The picture", 300, ["Decode", 14, 31])]},
    "learn_06_one_step": {
        "subgraphs": {"Noise, and eight steps": ([5, 6, 7, 8, 9, 10], []), "Decode": ([18, 19, 21, 22, 24, 25], [])},
        "columns": [("", 270, [1, 3]), ("1 Embed", 240, [4, "Noise, and eight steps", 11, 12, 13]), ("2 Blocks", 240, [14, 29, 15]),
                    ("3 Step", 246, [16, 17, 26]), ("4 Before, and the guess", 250, ["Decode", 20, 23])]},
    "learn_07_the_loop": {
        "subgraphs": {NOISY: ([6, 7, 8, 9], [(9, "seed")])},
        "columns": [("", 290, [1, 3]), ("1 Prompt and noise", 250, [4, 5, NOISY]), ("2 The loop", 460, [10]), ("3 Decode", 270, [13, 14, 15])]},
    "learn_08_training": {
        "subgraphs": {"Train": ([6], TRAIN), "Draw with it": (list(range(10, 18)), [(10, "text"), (14, "seed")])},
        "columns": [("", 280, [1, 3]), ("1 A model and pictures", 250, [4, 5]), ("2 Train", 300, ["Train", 8, "Draw with it"]),
                    ("3 Before and after", 464, [7, 18])]},
    "learn_09_patch_sizes": {
        "subgraphs": {"Latent and steps": ([5, 6], [])},
        "columns": [("", 310, [4, 1]), ("1 One prompt, what it costs", 262, [2, 3, "Latent and steps", 9]), ("2 Every size", 290, [7, 10]),
                    ("3 What is lost, what is saved", 460, [12])]},
    "learn_10_see_and_steer": {
        "subgraphs": {"Blue": ([9, 11, 12, 13, 14, 15], [(9, "text")]), "Red": ([16, 18, 19, 20, 21, 22], [(16, "text")]),
                      "All steps, and the ninth": ([25, 26, 27, 28, 32, 33, 34], []), "Noise": ([5, 6, 7, 8, 10, 17, 24], []),
                      "Draw": ([35, 36, 37], [])},
        "columns": [("", 270, [4, 1]), ("1 A red square", 226, [23, "Noise", "All steps, and the ninth", 38]), ("2 See it", 300, [29]),
                    ("3 A direction", 226, ["Blue", "Red", 30]), ("4 Steer", 226, [31, "Draw", 39])]},
    "one_step_at_a_time": {
        "subgraphs": {NOISY: ([5, 6, 7, 8], [(8, "seed")]), "Steps 4 to 7": ([13, 14, 15, 16], [])},
        "columns": [("", 260, [4, 1, 2, 3]), ("1 Noise, step 0", 240, [NOISY, 9]), ("2 Steps 1 and 2", 240, [10, 11]),
                    ("3 Step 3, the rest", 240, [12, "Steps 4 to 7"]), ("4 Decode", 262, [17, 18, 19])]},
    "image_round_trip": {"columns": [("", 300, [1, 2]), ("1 Encode", 300, [3, 4]), ("2 Patchify", 300, [5]), ("3 Decode", 300, [6, 7, 8])]},
    "image_to_image": {
        "subgraphs": {"The first picture": ([2, 6, 7, 8, 10, 11, 12, 13], [(2, "text"), (10, "seed")])},
        "columns": [("", 250, [4, 1]), ("1 A picture, a new prompt", 250, ["The first picture", 3, 5]), ("2 Noise again", 240, [9, 15, 14]),
                    ("3 Denoise", 250, [16]), ("4 Decode", 250, [17, 18, 19])]},
    "concept_mask": {
        "subgraphs": {"The first picture": ([2, 5, 6, 7, 8, 9, 10, 11], [(2, "text"), (8, "seed")]), "A late step": ([13, 14, 15, 16], [(13, "step")]),
                      "The second picture": ([18, 19, 20, 21], [(18, "text"), (20, "seed")]), "Decode": ([23, 24], [])},
        "columns": [("", 240, [4, 1]), ("1 Two things", 236, ["The first picture", 3, 12]), ("2 Where the model sees them", 300, ["A late step", 17]),
                    ("3 Paint one anew", 236, ["The second picture", 22]), ("4 The picture", 240, ["Decode", 25])]},
    "swap_patch_size": {
        "subgraphs": {"Latent and schedule": ([5, 6], []), "p = 2": ([7, 8, 9, 10, 11], [(7, "patch_size")]),
                      "p = 4": ([13, 14, 15, 16, 17], [(13, "patch_size")]), "p = 8": ([19, 20, 21, 22, 23], [(19, "patch_size")])},
        "columns": [("", 280, [4, 1, 2, 3]), ("1 Three patch sizes", 270, ["Latent and schedule", "p = 2", "p = 4", "p = 8"]),
                    ("2 p = 2 and p = 4", 360, [12, 18]), ("3 p = 8", 360, [24])]},
    "patch_schedule": {
        "subgraphs": {NOISY: ([5, 6, 7, 8], [(8, "seed")]), "Decode both": ([11, 12, 15, 16], [])},
        "columns": [("", 270, [4, 1, 2, 3]), ("1 Noise, schedule", 236, [NOISY, 9]), ("2 Fine", 240, [10]), ("3 Coarse, then fine", 240, [14]),
                    ("4 Decode", 256, ["Decode both", 13, 17])]},
    "compare_patch_sizes": {"columns": [("", 300, [4, 1]), ("1 Encode", 280, [2, 3, 5, 6]), ("2 Compare", 330, [7, 9]), ("3 Results", 380, [8, 10])]},
    "ksampler_parity": {
        "subgraphs": {"The wires": ([11, 12, 13, 14, 15, 16], [(11, "patch_size"), (13, "seed")])},
        "columns": [("", 260, [1, 2, 3]), ("1 Encode", 240, [4, 5, 6, 10]), ("2 Both ways", 256, [7, "The wires"]), ("3 Pictures", 240, [8, 9, 17]),
                    ("4 Difference", 240, [18, 19])]},
    "sd3_5": {"columns": [("", 260, [1, 2]), ("1 Encode", 250, [3, 4, 5]), ("2 Patchify", 240, [6, 7, 8]), ("3 Denoise", 246, [9, 10]),
                          ("4 Decode", 246, [11, 12, 13])]},
    "flux_dev": {"columns": [("", 256, [1, 2, 4]), ("1 Encode", 256, [3, 5, 6, 7]), ("2 Patchify", 236, [8, 9, 10]), ("3 Denoise", 246, [11, 12]),
                             ("4 Decode", 246, [13, 14, 15])]},
    "steer_a_style": {
        "subgraphs": {"Noise and schedule": ([3, 4, 5, 6, 7, 8], []), "A painting": (list(range(9, 15)), [(9, "text")]),
                      "A photograph": (list(range(15, 21)), [(15, "text")]), "Draw": ([24, 25], []), "Draw it steered": ([27, 28], [])},
        "columns": [("", 280, [1, 2]), ("1 Two runs", 250, ["Noise and schedule", "A painting", "A photograph"]), ("2 A direction", 240, [21, 22]),
                    ("3 As asked", 240, [23, "Draw", 26]), ("4 Steered", 240, ["Draw it steered", 29])]},
    "exploded_step": {
        "subgraphs": {"Steps 0 to 5": ([1, 2, 3, 4, 5, 6, 7, 8], [(2, "text"), (7, "seed")]), "Decode both": ([18, 19, 20, 22, 23], [])},
        "columns": [("", 270, [9, "Steps 0 to 5"]), ("1 Embed", 236, [10, 11, 12]), ("2 Blocks", 236, [13, 14]), ("3 Step", 236, [15, 16, 17, "Decode both"]),
                    ("4 Pictures", 262, [21, 24])]},
    "cache_by_wires": {
        "subgraphs": {"Steps 0 to 5": ([1, 2, 3, 4, 5, 6, 7, 8], [(2, "text"), (7, "seed")]), "Step 6, all blocks": ([10, 11, 12, 13, 14, 15, 16, 17], []),
                      "Step 7 begins": ([20, 21, 22], []), "Now minus then": ([30, 31], []), "Step 7 ends": ([26, 27, 28], []),
                      "Step 7, all blocks": ([33, 34, 35, 36], []), "Decode both": ([40, 41, 44, 45], [])},
        "columns": [("", 300, [9, "Steps 0 to 5"]), ("1 The first block", 232, ["Step 6, all blocks", "Step 7 begins", 23]),
                    ("2 Compare", 232, ["Now minus then", 32, 48]), ("3 Add again", 232, [24, 25, "Step 7 ends", "Step 7, all blocks"]),
                    ("4 Pictures", 232, ["Decode both", 42, 46])]},
    "denoise_loop": {
        "subgraphs": {"Noisy tokens and prompts": ([1, 2, 3, 5, 6, 7, 8], [(2, "text"), (6, "patch_size"), (8, "seed")]),
                      "One step, as stages": ([10, 11, 12, 13, 14, 15, 16], [(13, "blocks")])},
        "columns": [("", 330, [4, "Noisy tokens and prompts"]), ("1 Begin", 310, [9]), ("2 One step", 290, ["One step, as stages", 17]),
                    ("3 Decode", 300, [18, 19, 20])]},
    "skip_blocks": branches("Steps 0 to 5", ["All blocks", "Without block 3", "Without block 0"], (13, "blocks")),
    "repeat_blocks": branches("Steps 0 to 5", ["In order", "The middle twice", "Reversed"], (13, "blocks")),
    "bag_of_patches": branches("Steps 0 to 5", ["With positions", "Without", "Shuffled"], (12, "mode")),
    "find_and_skip_blocks": {
        "subgraphs": {"Steps 0 to 5, and a picture": ([2, 3, 4, 5, 6, 7, 8, 9, 12], [(3, "text"), (8, "seed")]),
                      "The blocks that matter": ([13, 14, 15, 16, 17, 18], []), "The rest": ([20, 21, 22, 24, 25, 26], [])},
        "columns": [("", 330, [1, "Steps 0 to 5, and a picture"]), ("1 Which blocks matter", 330, [10, 11]),
                    ("2 A step with those", 290, ["The blocks that matter", 19, "The rest"]), ("3 Pictures", 320, [23, 27])]},
    "graft_two_prompts": {
        "subgraphs": {"Steps 0 and 1": ([1, 2, 3, 4, 5, 6, 7, 8, 10], [(2, "text"), (10, "text"), (7, "seed")]),
                      "First prompt, blocks 0-2": ([11, 12, 13, 14], []), "Second prompt, blocks 0-2": ([15, 16, 17, 18], []),
                      "First goes on": ([19, 20, 21, 22, 23, 24], []), "Second goes on": ([26, 27, 28, 29, 30, 31], []),
                      "Graft": ([33, 34, 35, 36, 37, 38], [])},
        "columns": [("", 280, [9, "Steps 0 and 1"]), ("1 Half of the blocks", 240, ["First prompt, blocks 0-2", "Second prompt, blocks 0-2"]),
                    ("2 The other half", 240, ["First goes on", "Second goes on", "Graft"]), ("3 Both", 236, [25, 32]), ("4 Graft", 236, [39])]},
    "skip_layer_guidance": guided("Without block 3", [20, 21, 22, 23, 24], (23, "blocks")),
    "perturbed_attention_guidance": guided("Perturbed in block 3", [20, 21, 22, 23, 24, 30, 31], (30, "attention")),
    "cfg_variants": {
        "subgraphs": {
            "Steps 0 to 2": ([1, 2, 3, 4, 5, 6, 7, 8, 60], []), "Both prompts at once": ([10, 11, 12, 13, 14], []),
            "The prompt": ([35, 36, 37, 38, 39], []), "The empty prompt": ([40, 41, 42, 43, 44], []),
            "The weaker model": ([50, 51, 52, 53, 54], []), "The other prompt": ([61, 62, 63, 64, 65], []),
            "Five predictions": (["Steps 0 to 2", "Both prompts at once", "The prompt", "The empty prompt", "The weaker model", "The other prompt"], []),
            **{name: ([first, *range(second, second + 3)], [(first, "cfg")]) for name, first, second in (
                ("No guidance", 15, 16), ("CFG", 30, 31), ("CFG of two branches", 45, 46), ("Autoguidance", 55, 56), ("Halfway", 66, 67))}},
        "columns": [("", 280, [9, "Five predictions"]), ("1 Guide, step, decode", 232, ["No guidance", "CFG", "CFG of two branches"]),
                    ("", 232, ["Autoguidance", "Halfway", 70]), ("2 None, CFG", 236, [19, 34]), ("3 Two branches, auto", 236, [49, 59])]},
    "train_from_scratch": {
        "subgraphs": {"Train": ([6], TRAIN)},
        "columns": [("", 280, [1, 2, 5]), ("1 A model and pictures", 270, [3, 4]), ("2 Train", 340, ["Train", 7]), ("3 Filters", 400, [8, 9])]},
    "pixels_without_vae": {
        "subgraphs": {"Train": ([6], TRAIN), "Draw with it": (list(range(8, 17)), [(8, "text"), (13, "seed")]),
                      "What a step costs": ([18, 19, 20], [(19, "patch_size")])},
        "columns": [("", 270, [1, 2]), ("1 A model of pixels", 230, [3, 4, 5]), ("2 Train", 226, ["Train", 7]), ("3 Draw", 226, ["Draw with it", 17]),
                    ("4 What it costs", 300, ["What a step costs", 21, 22])]},
    "textbook_step": {
        "subgraphs": {"A picture and its caption": ([4, 5, 6], [(4, "seed")])},
        "columns": [("", 250, [1, 2, 3, "A picture and its caption"]), ("1 Patchify", 240, [7, 17]), ("2 Noise, condition", 240, [8, 9, 10]),
                    ("3 Blocks", 240, [11, 12, 13]), ("4 Loss, step", 260, [14, 15, 16])]},
    "new_patch_size_adapter": {
        "subgraphs": {"Train": ([6], TRAIN), NOISY: ([7, 8, 9, 10], [(8, "patch_size"), (10, "seed")])},
        "columns": [("", 260, [1, 2, 3, 4]), ("1 Learn p = 3", 250, [5, "Train"]), ("2 Draw with it", 240, [NOISY, 15]), ("3 Denoise", 246, [11]),
                    ("4 Decode", 246, [12, 13, 14])]},
}
