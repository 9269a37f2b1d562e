import pytest

from detection.engine.schedule import ScheduleConfig, describe, limits, plan

COCO_1X = ScheduleConfig(unit="iterations", length=90000, milestones=(60000, 80000))


@pytest.mark.parametrize(
    ("batch", "total", "warmup", "milestones"),
    [
        (16, 90000, 1000, (60000, 80000)),
        (2, 720000, 8000, (480000, 640000)),  # 16 / 2 = 8 times the steps
        (64, 22500, 250, (15000, 20000)),  # 16 / 64 = a quarter
    ],
)
def test_another_batch_sees_the_same_images(batch, total, warmup, milestones):
    schedule = plan(COCO_1X, batch, steps_per_epoch=117266 // batch)
    assert (schedule.total, schedule.warmup, schedule.milestones) == (total, warmup, milestones)
    assert limits(COCO_1X, batch) == {"max_epochs": -1, "max_steps": total}


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.001),
        (500, 0.5005),  # half way from 0.001 to 1
        (999, 0.001 + 0.999 * 0.999),
        (1000, 1.0),
        (59999, 1.0),
        (60000, 0.1),
        (79999, 0.1),
        (80000, 0.01),
    ],
)
def test_multistep_with_warmup(step, factor):
    assert plan(COCO_1X, 16, 7329).factor(step) == pytest.approx(factor, rel=1e-12)


def test_epochs_count_the_steps_of_the_data_set():
    config = ScheduleConfig(unit="epochs", length=12, milestones=(8, 11), warmup=10)
    schedule = plan(config, 16, steps_per_epoch=100)
    assert (schedule.total, schedule.milestones) == (1200, (800, 1100))
    assert limits(config, 16) == {"max_epochs": 12, "max_steps": -1}


def test_cosine_falls_to_zero():
    schedule = plan(ScheduleConfig(kind="cosine", length=10, warmup=0), 16, steps_per_epoch=10)
    assert schedule.factor(0) == 1
    assert schedule.factor(25) == pytest.approx(0.5 * (1 + 2**-0.5))  # cos(pi / 4)
    assert schedule.factor(50) == pytest.approx(0.5)
    assert schedule.factor(100) == pytest.approx(0)


def test_warmup_takes_a_tenth_of_a_short_run_at_most():
    assert plan(ScheduleConfig(length=2, warmup=1000), 16, steps_per_epoch=50).warmup == 10


def test_the_trainers_limit_ends_the_schedule():
    schedule = plan(COCO_1X, 16, 7329, total=7329)
    assert schedule.total == 7329
    assert "constant" in describe(schedule, 0.02, 16, 7329)


def test_the_line_that_a_run_prints():
    line = describe(plan(COCO_1X, 8, 14658), 0.01, 8, 14658)
    assert line == (
        "Schedule: 180000 steps (12.3 epochs) of 8 images, learning rate 0.01 after 2000 steps of warm-up, "
        "times 0.1 at step 120000 and 160000"
    )
