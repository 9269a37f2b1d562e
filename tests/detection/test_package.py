import detection


def test_what_is_offered_is_there_and_is_listed():
    assert {"load_model", "save_model", "predict", "predict_batch"} <= set(detection.__all__) <= set(dir(detection))
    assert all(getattr(detection, name) is not None for name in detection.__all__)
